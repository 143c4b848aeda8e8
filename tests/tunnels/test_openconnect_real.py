"""openconnect against a real ocserv: what happens to sessions, and what becomes of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.tunnels.driver import ClientRun, wait_for
from tests.tunnels.openconnect_lab import DEVICE, SERVER, OpenConnectLab, laboratory
from tests.tunnels.openconnect_scenarios import SCENARIOS, OpenconnectScenario
from tunnels.base import Keep, Reason
from tunnels.kinds.openconnect.kind import OPENCONNECT

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def lab() -> Iterator[OpenConnectLab]:
    with laboratory() as lab:
        yield lab


@pytest.mark.parametrize(
    "scenario", [each for each in SCENARIOS if not each.slow], ids=lambda scenario: scenario.name
)
def test_scenario(lab: OpenConnectLab, scenario: OpenconnectScenario) -> None:
    run = scenario.play(lab)
    assert [each.reason for each in run.observations if hasattr(each, "reason")] == (
        [scenario.reason] if scenario.reason else []
    )


def _openconnect(run: ClientRun) -> psutil.Process:
    (client,) = (
        child
        for child in psutil.Process(run.process.pid).children(recursive=True)
        if child.name() == "openconnect"
    )
    return client


def _link(lab: OpenConnectLab) -> dict[str, object] | None:
    found = json.loads(lab.client.run("ip", "-j", "address", "show").stdout)
    return next((link for link in found if link["ifname"] == DEVICE), None)


def test_a_session_renewed_in_place_keeps_its_device_and_touches_nothing_else(lab: OpenConnectLab) -> None:
    before = Path("/etc/resolv.conf").read_bytes() if Path("/etc/resolv.conf").exists() else b""
    routes = lab.client.run("ip", "route").stdout
    server = lab.serving()
    run = lab.run(mtu=1300)
    try:
        run.connected()
        assert lab.client.run("ip", "route").stdout == routes
        link = _link(lab)
        assert link is not None
        assert link["mtu"] == 1300
        lab.reach()
        run.tell(OPENCONNECT.renew[0])
        run.connected()
        lab.reach()
        again = _link(lab)
        assert again is not None
        assert again["ifindex"] == link["ifindex"]
        assert server.logins == 1
    finally:
        run.stop()
    assert _link(lab) is None
    assert (Path("/etc/resolv.conf").read_bytes() if Path("/etc/resolv.conf").exists() else b"") == before


def test_a_stopped_session_is_parked_and_resumed_without_a_login(lab: OpenConnectLab) -> None:
    server = lab.serving()
    first = lab.run()
    first.connected()
    logins = server.logins
    assert first.stop() == 0
    second = lab.resume(first)
    try:
        second.connected()
        lab.reach()
        assert server.logins == logins
    finally:
        second.stop()


def test_a_session_that_shall_leave_logs_off_and_its_cookie_is_forgotten(lab: OpenConnectLab) -> None:
    lab.serving()
    first = lab.run()
    first.connected()
    first.tell(OPENCONNECT.logout[0])
    os.kill(first.process.pid, signal.SIGTERM)
    first.to_end()
    first.stop()
    assert first.observations[-1] == Keep("")
    second = lab.resume(first)
    assert second.failed().reason is Reason.SESSION_EXPIRED
    second.stop()


def test_a_killed_client_ends_its_program_the_same_way_and_its_session_goes_on(lab: OpenConnectLab) -> None:
    server = lab.serving()
    first = lab.run()
    first.connected()
    logins = server.logins
    _openconnect(first).kill()
    first.to_end()
    assert first.process.wait() == -signal.SIGKILL
    second = lab.resume(first)
    second.connected()
    assert server.logins == logins
    second.stop()


def test_a_killed_program_takes_its_client_along(lab: OpenConnectLab) -> None:
    lab.serving()
    run = lab.run()
    run.connected()
    client = _openconnect(run)
    run.process.kill()
    psutil.wait_procs([client], timeout=30)
    assert not client.is_running() or client.status() == psutil.STATUS_ZOMBIE
    wait_for(lambda: _link(lab) is None)
    run.stop()


def test_it_goes_on_without_the_daemon_and_tells_the_next_one(lab: OpenConnectLab) -> None:
    lab.serving()
    run = lab.run()
    try:
        address = run.connected().address
        run.hang_up()
        lab.reach()
        run.attach_again()
        assert run.connected().address == address
    finally:
        run.stop()


@contextlib.contextmanager
def _mute(lab: OpenConnectLab) -> Iterator[threading.Event]:
    """A server on port 4443 that takes connections and never says anything; the event tells that one came."""
    came = threading.Event()
    with lab.server.entered():
        listener = socket.create_server((SERVER, 4443))
    held: list[socket.socket] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                held.append(listener.accept()[0])
                came.set()

    threading.Thread(target=accept, daemon=True).start()
    yield came
    listener.shutdown(socket.SHUT_RDWR)
    for each in (listener, *held):
        each.close()


def test_a_client_that_hears_no_signal_is_ended_all_the_same(lab: OpenConnectLab) -> None:
    with _mute(lab) as came:
        run = lab.run(server=f"{SERVER}:4443")
        assert came.wait(30)
        assert (
            run.stop() == -signal.SIGKILL
        )  # of its client, which it ends like; our own SIGKILL would come after half a minute
        assert not run.observations


def test_a_user_without_the_right_is_told(lab: OpenConnectLab) -> None:
    lab.serving()
    run = lab.run(prefix=("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--securebits=+noroot"))
    assert run.failed().reason is Reason.MISSING_RIGHT
    run.stop()
