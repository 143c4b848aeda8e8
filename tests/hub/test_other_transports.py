"""Ends of sessions where clients come over IPv6 or TCP: OpenVPN's `kill ADDRESS:PORT` takes IPv4 only."""

from __future__ import annotations

import signal
import time

import pytest

from tests.hub.lab import HubLab
from tests.hub.test_sidecar import is_up, received
from tests.lab.wait import NOISE, eventually

pytestmark = [pytest.mark.root, pytest.mark.timed]


@pytest.mark.parametrize("protocol", ["udp6", "tcp-server"])
def test_a_deaf_client_is_cut_and_a_listening_one_is_told(protocol: str) -> None:
    with HubLab(protocol=protocol) as lab:
        lab.service.start()
        node = lab.nodes["a"]
        node.start()
        alice, bob = lab.client("alice"), lab.client("bob")
        for client in (alice, bob):
            client.start()
            is_up(lab, client)
        assert lab.service.up("alice")[0].client.address == ("fd00:200:1::2" if node.ipv6 else "10.200.1.2")
        lab.service.ask("POST", "/api/v1/end", {"person": "bob"})
        eventually(lambda: bob.ended, 5, "the client that listens ends by itself")
        lab.outside.run("nft", "-f", "-", input=DEAF)
        sending = lab.outside.popen("ping", "-q", "-i", "0.02", "-I", alice.interface, "10.8.0.1")
        try:
            before = received(node.namespace)
            eventually(lambda: received(node.namespace) > before + 10, 5, "packets arrive in the tunnel")
            lab.service.ask("POST", "/api/v1/end", {"person": "alice"})
            ordered = quiet_since = time.monotonic()
            last = received(node.namespace)
            while time.monotonic() - ordered < 2.5:
                time.sleep(0.02)
                if (now := received(node.namespace)) != last:
                    last, quiet_since = now, time.monotonic()
        finally:
            sending.send_signal(signal.SIGINT)
            sending.wait()
        assert quiet_since - ordered < 0.5 * NOISE, f"it sent for {quiet_since - ordered:.2f} s"
        eventually(lambda: not lab.service.open(), 10, "the service knows of the end")


# TCP goes on for as long as acknowledgements arrive: only segments with data of OpenVPN are lost.
DEAF = """
table inet deaf {
  chain input {
    type filter hook input priority 0;
    udp sport 1194 drop;
    tcp sport 1194 meta length > 70 drop;
  }
}
"""
