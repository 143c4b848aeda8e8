"""The program for WireGuard with a real wireguard-go on both sides; where the kernel has WireGuard, our
side is the kernel's.
"""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.lab.network import CUSTOMER, DATACENTRE
from tests.lab.wireguard import CLIENT_ADDRESS, Key, text
from tests.tunnels.driver import ClientRun, wait_for
from tests.tunnels.wireguard_lab import WireGuardSite
from tunnels.base import Failed, Reason, Say
from tunnels.driver_dialogue import RENEW

pytestmark = pytest.mark.root

TRANSCRIPTS = Path(__file__).parent / "transcripts" / "wireguard"
RECORD = "FACILITATOR_RECORD" in os.environ  # write the transcripts anew


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WireGuardSite]:
    site = WireGuardSite(tmp_path_factory.mktemp("wireguard"))
    try:
        yield site
    finally:
        site.close()


def failed(run: ClientRun) -> Failed:
    try:
        return run.failed()
    finally:
        run.stop()


def record(name: str, run: ClientRun, device: str) -> None:
    if RECORD:
        lines = (
            re.sub(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d", "2026/01/01 00:00:00", line) for line in run.transcript
        )
        lines = (re.sub(r"peer\(\S+?\)", "peer(AbCd…EfGh)", line).replace(device, "t-acme") for line in lines)
        (TRANSCRIPTS / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))


def worker(run: ClientRun) -> psutil.Process:
    """The wireguard-go of a session."""
    found = [
        child
        for child in psutil.Process(run.process.pid).children(recursive=True)
        if child.name() == "wireguard-go"
    ]
    assert len(found) == 1
    return found[0]


def test_a_session_and_its_renewal(site: WireGuardSite) -> None:
    run = site.start(site.config())
    try:
        connected = run.connected()
        assert (connected.address, connected.peer, connected.on_interface) == (
            CLIENT_ADDRESS,
            str(CUSTOMER),
            False,
        )
        assert CLIENT_ADDRESS not in site.addresses()
        routes = site.network["facilitator"].run("ip", "route", "show", "dev", site.device).stdout
        assert routes == ""
        assert "mtu 1420" in site.network["facilitator"].run("ip", "link", "show", "dev", site.device).stdout
        seen = {
            Path(f"/proc/{pid}/{name}").read_bytes()
            for pid in (run.process.pid, worker(run).pid)
            for name in ("cmdline", "environ")
        }
        for key in (site.server.client.private, site.server.preshared):
            assert not [True for data in seen if text(key).encode() in data or key.hex().encode() in data]
        record("connected", run, site.device)
        begun = site.server.attempts
        run.take(Say(RENEW.line))
        run.pump(lambda: len(run.observations) == 2)
        assert run.observations == [connected] * 2
        assert site.server.attempts == begun + 1
    finally:
        code = run.stop()
    assert code == 0
    assert site.addresses() == ""
    assert not Path(f"/var/run/wireguard/{site.device}.sock").exists()


def test_a_killed_wireguard_go_ends_the_session_by_the_same_signal(site: WireGuardSite) -> None:
    run = site.start(site.config())
    run.connected()
    worker(run).kill()
    run.to_end()
    assert run.process.wait() == -signal.SIGKILL
    assert [o for o in run.observations if isinstance(o, Failed)] == []
    run.stop()


def test_after_a_kill_of_everything_the_next_session_begins(site: WireGuardSite) -> None:
    for _ in range(2):
        run = site.start(site.config())
        run.connected()
        os.killpg(run.process.pid, signal.SIGKILL)
        run.to_end()
        wait_for(lambda: site.addresses() == "")
        run.stop()


def test_why_there_is_no_handshake(site: WireGuardSite) -> None:
    """All at the same time, because each takes its time."""
    site.network["facilitator"].run("ip", "route", "add", "unreachable", "203.0.113.99")
    here = f"{CUSTOMER} port {site.server.port}"
    cases = {
        "wrong-preshared-key": (
            site.config(preshared=bytes(31) + b"x"),
            Reason.HANDSHAKE,
            f"{here} answers, but its handshake does not fit: the preshared key is most likely another one",
        ),
        "unknown-key": (
            site.config(private=bytes(31) + b"x"),
            Reason.NETWORK,
            f"no handshake with {here} within 12 s: it cannot be reached, or a key is wrong (both look "
            f"the same)",
        ),
        "no-route": (
            site.config().replace(str(CUSTOMER), "203.0.113.99"),
            Reason.NETWORK,
            f"nothing could be sent to 203.0.113.99 port {site.server.port}: no route to host",
        ),
        "no-name": (
            site.config().replace(str(CUSTOMER), "vpn.invalid"),
            Reason.DNS,
            "vpn.invalid cannot be resolved",
        ),
    }
    runs = {name: site.start(case[0], str(number)) for number, (name, case) in enumerate(cases.items())}
    for number, (name, run) in enumerate(runs.items()):
        why = failed(run)
        assert (why.reason, why.text) == cases[name][1:]
        record(name, run, f"{site.device}{number}")


def test_a_handshake_with_a_peer_that_owns_no_destination_proves_nothing(site: WireGuardSite) -> None:
    """Its AllowedIPs are those of the second peer too, which is the one that gets them."""
    dead = f"\n[Peer]\nPublicKey = {text(Key().public)}\nEndpoint = {CUSTOMER}:51999\nAllowedIPs = {DATACENTRE}\n"
    begun = site.server.attempts
    run = site.start(site.config() + dead)
    why = failed(run)
    assert site.server.attempts > begun  # the first peer did shake hands
    assert (why.reason, why.text) == (
        Reason.NETWORK,
        f"no handshake with {CUSTOMER} port 51999 within 12 s: it cannot be reached, or a key is wrong (both "
        f"look the same)",
    )


def test_a_local_port_that_is_taken(site: WireGuardSite) -> None:
    """Several at the same time, so that some find the port taken only when their interface comes up."""
    with site.network["facilitator"].entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 51999))
        config = site.config().replace("DNS = ", "ListenPort = 51999\nDNS = ")
        runs = [site.start(config, f"p{number}") for number in range(6)]
        failures = [failed(run) for run in runs]
    assert {(why.reason, why.text) for why in failures} == {
        (Reason.LOCAL, "UDP port 51999 of the file's ListenPort is taken on this host")
    }
    record("port-taken", runs[0], f"{site.device}p0")


def test_a_device_name_that_is_taken(site: WireGuardSite) -> None:
    first = site.start(site.config())
    first.connected()
    second = site.start(site.config())
    why = failed(second)
    first.stop()
    assert (why.reason, why.text) == (
        Reason.LOCAL,
        "this host has an interface of the same name; set device: to another name",
    )
    record("device-taken", second, site.device)


def test_a_device_of_another_kind_is_left_alone(site: WireGuardSite) -> None:
    site.network["facilitator"].run("ip", "link", "add", site.device, "type", "veth", "peer", "name", "other")
    run = site.start(site.config())
    why = failed(run)
    kind = site.network["facilitator"].run("ip", "-d", "link", "show", site.device).stdout
    site.network["facilitator"].run("ip", "link", "delete", site.device)
    assert why.reason is Reason.LOCAL
    assert "veth" in kind


def test_a_socket_of_the_same_name_in_use(site: WireGuardSite) -> None:
    """Another network namespace has a device of the same name."""
    path = Path(f"/var/run/wireguard/{site.device}.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        try:
            listener.listen()
            run = site.start(site.config())
            why = failed(run)
        finally:
            path.unlink()
    assert (why.reason, why.text) == (
        Reason.LOCAL,
        "another WireGuard on this host has an interface of the same name; set device: to another name",
    )
    record("socket-taken", run, site.device)
