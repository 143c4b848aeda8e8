"""Is the lab itself sound? Proved with the real clients started by hand, without the product."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import BASTION, CLOUD_WEB, CUSTOMER, DATACENTRE_WEB, Lab
from tests.lab.network import BASTION_INSIDE, DESTINATIONS
from tests.lab.servers import PASSWORD
from tests.lab.traffic import watched
from tests.lab.wait import eventually

pytestmark = pytest.mark.root

DATACENTRE_URL, CLOUD_URL = f"http://{DATACENTRE_WEB}/", f"http://{CLOUD_WEB}/"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


class HandStartedClient:
    """The customer's OpenVPN client started by hand, with a route and masquerading."""

    def __init__(self, lab: Lab, *options: str, config: str = "acme.ovpn") -> None:
        self.namespace, self.log = lab.network["facilitator"], lab.directory / "client.log"
        self.argv = (
            "openvpn",
            "--config",
            str(lab.directory / config),
            "--dev",
            "tun0",
            "--route-noexec",
            *options,
        )

    def __enter__(self) -> HandStartedClient:
        self.start()
        self.namespace.run("nft", "add table ip hand")
        self.namespace.run("nft", "add chain ip hand post { type nat hook postrouting priority 100; }")
        self.namespace.run("nft", 'add rule ip hand post oifname "tun0" masquerade')
        return self

    def start(self) -> None:
        with self.log.open("w") as log:
            self.process = self.namespace.popen(*self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        eventually(lambda: "Initialization Sequence Completed" in self.log.read_text(), 10, "openvpn is up")
        self.namespace.run("ip", "route", "replace", str(DESTINATIONS[0]), "dev", "tun0")

    def kill_and_start(self) -> None:
        self.process.kill()
        self.process.wait()
        self.start()

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=10)
        self.namespace.run("nft", "delete table ip hand")


def test_nothing_is_reachable_without_a_tunnel_and_the_capture_sees_it_in_clear(lab: Lab) -> None:
    with watched(lab.capture()) as clear:
        assert lab.request(DATACENTRE_URL, timeout=2).status == 0
        assert lab.request(CLOUD_URL, timeout=2).status == 0
    assert any(str(DATACENTRE_WEB) in line for line in clear)
    assert any(str(CLOUD_WEB) in line for line in clear)


def test_openvpn_by_hand_carries_the_laptop_as_the_tunnel_address(lab: Lab) -> None:
    with HandStartedClient(lab), watched(lab.capture()) as clear:
        reply = lab.request(DATACENTRE_URL)
        with lab.flood(DATACENTRE_WEB, rate=1000) as flood:
            lab.reachable_within(DATACENTRE_WEB, 5)
    assert (reply.status, reply.body) == (200, "datacentre sees 10.78.0.2")
    assert clear == []
    assert flood.sent > 100


def test_the_stopwatch_sees_an_outage(lab: Lab) -> None:
    with HandStartedClient(lab) as client:
        outage = lab.outage(DATACENTRE_WEB, client.kill_and_start)
        print("kill and start by hand:", outage)
        assert outage.failed > 0
        assert outage.seconds > 0.02

        lasted = 0.0

        def pause() -> None:
            nonlocal lasted
            began = time.monotonic()
            lab.blackhole(CUSTOMER)
            time.sleep(1)  # the fault itself lasts this long
            lab.unblock(CUSTOMER)
            lasted = time.monotonic() - began

        outage = lab.outage(DATACENTRE_WEB, pause)
        print(f"path dropped for {lasted:.2f} s:", outage)
        assert 1.0 <= outage.seconds < lasted + 2.0


def test_the_server_can_be_stopped_killed_and_started(lab: Lab) -> None:
    with HandStartedClient(lab) as client:
        lab.openvpn.stop()
        eventually(
            lambda: "server-pushed-connection-reset" in client.log.read_text(), 5, "the client is told"
        )
        lab.openvpn.start()
        lab.openvpn.kill()
        lab.openvpn.start()


@pytest.mark.parametrize(("password", "verdict"), [(PASSWORD, "accepted"), ("wrong", "refused")])
def test_the_password_server_counts_logins(lab: Lab, tmp_path: Path, password: str, verdict: str) -> None:
    server = lab.password_server
    before = len(server.attempts)
    login = tmp_path / "login"
    login.write_text(f"svc-facilitator\n{password}\n")
    client = HandStartedClient(lab, "--auth-user-pass", str(login), config="acme-password.ovpn")
    if verdict == "accepted":
        with client:
            assert lab.request(DATACENTRE_URL).body == "datacentre sees 10.79.0.2"
    else:
        assert client.namespace.run(*client.argv).returncode == 0
    assert server.attempts[before:] == [verdict]


def test_sshd_takes_the_one_key_and_reaches_the_cloud(lab: Lab) -> None:
    ssh = (
        "ssh",
        "-F",
        "none",
        "-i",
        str(lab.sshd.client_key),
        "-o",
        f"UserKnownHostsFile={lab.directory}/known_hosts",
        "-o",
        "BatchMode=yes",
        "-o",
        "IdentitiesOnly=yes",
        f"facilitator@{BASTION}",
    )
    fetch = f"import urllib.request as u; print(u.urlopen('{CLOUD_URL}').read().decode())"
    done = lab.network["facilitator"].run(*ssh, f'id -un; python3 -c "{fetch}"')
    assert done.stdout.split("\n")[:2] == ["facilitator", f"cloud sees {BASTION_INSIDE}"]


def test_the_lab_leaves_nothing_even_when_it_is_killed() -> None:
    script = "from tests.lab import Lab; lab = Lab(); print(lab.directory, flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    directory = Path(process.stdout.readline().strip())
    assert directory.exists()
    process.kill()
    process.communicate()
    with Lab():
        pass
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    assert f"fct-{process.pid}-" not in names
    assert not directory.exists()
