"""The sidecar beside a real OpenVPN server, with real clients."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator

import pytest

from hub.core.api import EndReason
from tests.hub.lab import HubLab, StaffClient
from tests.lab.wait import NOISE, eventually

pytestmark = pytest.mark.root

CROWD = tuple(f"person{number}" for number in range(10))


@pytest.fixture
def lab() -> Iterator[HubLab]:
    with HubLab() as lab:
        lab.service.start()
        lab.nodes["a"].start()
        yield lab
        assert lab.service.state.faults == []


def is_up(lab: HubLab, client: StaffClient) -> None:
    """The client has its address, and the service knows it."""
    eventually(lambda: lab.service.state.up(client.person), 10, f"{client.person} is up")
    eventually(client.pings, 5, f"the server answers {client.person}")


def test_a_certificate_logs_in_and_a_stranger_does_not(lab: HubLab) -> None:
    alice, mallory = lab.client("alice"), lab.client("mallory", may_enter=False)
    mallory.begin()
    alice.start()
    is_up(lab, alice)
    (session,) = lab.service.state.up("alice")
    assert str(session.address) in alice.namespace.run("ip", "address", "show", alice.interface).stdout
    eventually(lambda: mallory.ended, 5, "the rejected client ends")
    assert "you may not come in" in mallory.said
    assert lab.service.state.up("mallory") == []
    assert {request.person for request in lab.service.state.requests} == {"alice", "mallory"}
    assert all(request.certificate for request in lab.service.state.requests)


def test_a_session_is_ended_and_cannot_come_back(lab: HubLab) -> None:
    alice = lab.client("alice")
    alice.start()
    is_up(lab, alice)
    lab.service.end("alice")
    eventually(lambda: alice.ended, 2, "the client ends by itself")
    assert "your access has ended" in alice.said
    eventually(lambda: not lab.service.state.open, 2, "the service knows of the end")
    assert {each.reason for each in lab.service.state.sessions.values()} == {EndReason.OFFBOARDED}
    again = lab.client("alice", may_enter=False)
    again.begin()
    eventually(lambda: again.ended, 5, "she is rejected")
    assert not again.up_count


@pytest.mark.timed
def test_a_client_that_is_deaf_sends_nothing_any_more(lab: HubLab) -> None:
    alice = lab.client("alice")
    alice.start()
    is_up(lab, alice)
    node = lab.nodes["a"]
    # Nothing from the server reaches the client's process, so it goes on sending.
    lab.outside.run("nft", "-f", "-", input=DEAF)
    sending = lab.outside.popen("ping", "-q", "-i", "0.02", "-I", alice.interface, "10.8.0.1")
    try:
        before = received(node.namespace)
        eventually(lambda: received(node.namespace) > before + 10, 5, "packets arrive in the tunnel")
        lab.service.end("alice")
        ordered = time.monotonic()
        last = received(node.namespace)
        quiet_since = ordered
        while time.monotonic() - ordered < 2.5:
            time.sleep(0.02)
            if (now := received(node.namespace)) != last:
                last, quiet_since = now, time.monotonic()
    finally:
        sending.send_signal(signal.SIGINT)
        sending.wait()
    assert quiet_since - ordered < 0.5 * NOISE, f"it sent for {quiet_since - ordered:.2f} s"
    assert not alice.ended, "the client heard it: nothing was tested"


DEAF = """
table inet deaf {
  chain input { type filter hook input priority 0; udp sport 1194 drop; }
}
"""


def received(namespace) -> int:  # type: ignore[no-untyped-def]
    """Packets that have come out of the tunnel."""
    path = "/sys/class/net/tun-hub/statistics/rx_packets"
    return int(namespace.run("cat", path).stdout)


def test_a_killed_sidecar_costs_no_session(lab: HubLab) -> None:
    node = lab.nodes["a"]
    clients = [lab.client(person) for person in CROWD]
    for client in clients:
        client.begin()
    for client in clients:
        is_up(lab, client)
    first = {each.id for each in lab.service.state.open.values()}
    with contextlib.ExitStack() as stack:
        counts = [stack.enter_context(client.pinging()) for client in clients]
        for _ in range(3):
            node.end_sidecar(signal.SIGKILL)
            node.start_sidecar()
    assert [client.up_count for client in clients] == [1] * len(clients), "a client was restarted"
    lost = [sent - back for sent, back in counts]
    assert sum(lost) <= 1, lost
    beats = len(lab.service.state.beats)
    eventually(lambda: len(lab.service.state.beats) > beats + 2, 5, "heartbeats go on")
    assert {each.id for each in lab.service.state.open.values()} == first
    assert set(lab.service.state.beats[-1].sessions) == first


def test_a_login_that_begins_without_a_sidecar_enters_soon_after(lab: HubLab) -> None:
    node = lab.nodes["a"]
    node.end_sidecar(signal.SIGKILL)
    alice = lab.client("alice", nodes=["a"])
    alice.begin()
    eventually(lambda: "Peer Connection Initiated" in alice.said, 5, "the client waits for its login")
    assert not lab.service.state.requests
    back = time.monotonic()
    node.start_sidecar()
    is_up(lab, alice)
    assert time.monotonic() - back <= 5 * NOISE


def test_nobody_enters_without_the_service_and_nobody_leaves(lab: HubLab) -> None:
    alice, bob = lab.client("alice"), lab.client("bob", nodes=["a"])
    alice.start()
    is_up(lab, alice)
    lab.service.stop()
    bob.begin()
    eventually(lambda: "Peer Connection Initiated" in bob.said, 5, "bob waits for his login")
    with alice.pinging() as counted:
        eventually(lambda: "login service" in bob.said or "TEMP" in bob.said, 15, "bob is told to try again")
    assert counted[0] == counted[1]
    assert bob.up_count == 0
    lab.service.start()
    back = time.monotonic()
    is_up(lab, bob)
    assert time.monotonic() - back <= 5 * NOISE
    assert alice.up_count == 1


def test_a_login_waits_until_somebody_approves_it(lab: HubLab) -> None:
    lab.service.state.approvals |= {"alice", "bob"}
    alice, bob = lab.client("alice"), lab.client("bob")
    alice.begin()
    bob.begin()
    eventually(lambda: len(lab.service.state.open) == 2, 5, "both wait")
    time.sleep(2)
    assert alice.up_count == bob.up_count == 0
    lab.service.decide("alice", allow=True)
    lab.service.decide("bob", allow=False)
    is_up(lab, alice)
    eventually(lambda: bob.ended, 5, "bob is rejected")
    assert bob.up_count == 0
