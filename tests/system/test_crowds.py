"""sshuttle where one laptop wants all connections, where all are taken, and where a local user wants the
connections of others.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import echo
from tests.lab import CLOUD_WEB, Lab, LabDaemon
from tests.lab.config import Config, only
from tests.lab.daemon import LabPagerDuty
from tests.lab.servers import program
from tests.lab.wait import NOISE, eventually
from tunnels.kinds.sshuttle.limits import WORKER_CONNECTIONS, WORKER_CONNECTIONS_PER_SOURCE

pytestmark = pytest.mark.root

PORT = 7008  # an echo
CROWD = ("10.8.0.11", "10.8.0.12", "10.8.0.13")  # other laptops on the lab's cable
HELD = 6.0  # seconds: more than the three probe rounds that would end a session
PHASE = 6.0  # seconds for which a local user tries to get the port
NOBODY = 65534
DEAD = [f"10.90.7.{n}" for n in range(1, 251)]  # nobody is there: what a scan finds most of all


@pytest.fixture
def crowded(lab: Lab) -> Iterator[None]:
    """More laptops, and a server that holds many connections."""
    laptop = lab.network["laptop"]
    for address in CROWD:
        laptop.run("ip", "address", "add", f"{address}/16", "dev", "lan")
    with echo.serving(lab.network["cloud"], PORT):
        yield
    for address in CROWD:
        laptop.run("ip", "address", "del", f"{address}/16", "dev", "lan")


class HeldConnections:
    """Connections of one laptop, held until the context ends."""

    def __init__(self, lab: Lab, source: str, count: int, *addresses: str) -> None:
        argv = program("hold", source, str(PORT), str(count), *addresses)
        self._process = lab.network["laptop"].popen(*argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._read() == "opened"

    @property
    def open(self) -> int:
        """How many of them are open."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def __enter__(self) -> HeldConnections:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def goes_on(daemon: LabDaemon, before: dict[str, tuple[object, ...]]) -> None:
    """The session is the same, and it is well."""
    found = daemon.tunnel("own-cloud")
    assert daemon.sessions() == before
    assert (found["phase"], found["health"]) == ("up", "healthy")
    assert daemon.metric("facilitator_tunnel_reconnects_total", tunnel="own-cloud") == 0


def answered(lab: Lab, seconds: float) -> float:
    """Requests of the first laptop for so long: the longest time without an answer."""
    with lab.poller(CLOUD_WEB, patience=3.0) as poller:
        began = time.monotonic()
        poller.wait_settled(30, began)
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        poller.wait_settled(30, time.monotonic())
        return poller.longest(began)


@pytest.mark.timed
@pytest.mark.parametrize("workers", [1, 2])
def test_one_laptop_with_1500_connections_costs_the_others_nothing(
    lab: Lab, config: Config, crowded: None, workers: int
) -> None:
    config = only(config, "own-cloud")
    config["tunnels"]["own-cloud"]["workers"] = workers
    with lab.daemon(config) as daemon:
        daemon.wait_well()
        if workers > 1:
            eventually(
                lambda: "2 of 2 workers serve" in daemon.cli("logs", "own-cloud").stdout,
                20,
                "both workers serve",
            )
        before = daemon.sessions()
        with HeldConnections(lab, CROWD[0], 1500, str(CLOUD_WEB)) as held:
            gap = answered(lab, HELD)
            print(
                f"{held.open} of 1500 are open; the longest time without an answer for another laptop: "
                f"{gap:.2f} s"
            )
            assert (
                0.8 * workers * WORKER_CONNECTIONS_PER_SOURCE
                <= held.open
                <= workers * WORKER_CONNECTIONS_PER_SOURCE
            )
            goes_on(daemon, before)
            assert daemon.tunnel("own-cloud")["degraded"] is None
            assert gap < 1.0 * NOISE
        goes_on(daemon, before)


@pytest.mark.timed
def test_a_scan_of_hosts_that_are_not_there_costs_the_others_nothing(
    lab: Lab, config: Config, crowded: None
) -> None:
    with lab.daemon(only(config, "own-cloud")) as daemon:
        daemon.wait_well()
        before = daemon.sessions()
        with HeldConnections(lab, CROWD[0], 6, *DEAD):
            gap = answered(lab, HELD)
            print(f"the longest time without an answer for another laptop: {gap:.2f} s")
            goes_on(daemon, before)
            assert gap < 1.0 * NOISE


@pytest.mark.timed
def test_a_full_tunnel_says_so_and_goes_on(
    lab: Lab, config: Config, crowded: None, pagerduty: LabPagerDuty
) -> None:
    """Three laptops take everything; new connections are refused, none that is open ends, and the incident
    is over when there is room.
    """
    config = only(config, "own-cloud") | {"alerts": lab.configuration(pagerduty)["alerts"]}
    config["defaults"]["alert"] = {"after": "1s", "clear_after": "1s"}
    with lab.daemon(config) as daemon:
        daemon.wait_well()
        before = daemon.sessions()
        first = echo.connection(lab.network["laptop"], str(CLOUD_WEB), PORT)
        with contextlib.ExitStack() as stack:
            crowd = [
                stack.enter_context(HeldConnections(lab, source, 500, str(CLOUD_WEB))) for source in CROWD
            ]
            full = eventually(lambda: daemon.tunnel("own-cloud")["degraded"], 10, "it is degraded")
            assert (
                full
                == f"full: {WORKER_CONNECTIONS} connections are open, as many as it carries; new ones are refused"
            )
            eventually(
                lambda: sum(each.open for each in crowd) == WORKER_CONNECTIONS - 1,
                10,
                "the others were refused",
            )
            assert lab.request(f"http://{CLOUD_WEB}/").status == 0
            eventually(
                lambda: pagerduty.open() == ["facilitator/lab/degraded:own-cloud"], 10, "somebody is called"
            )
            assert pagerduty.state()["events"][-1]["payload"]["severity"] == "warning"
            time.sleep(HELD)
            goes_on(daemon, before)
            assert "degraded" in daemon.cli("status").stdout
            assert "full: " in daemon.get("/")[1]
            assert daemon.metric("facilitator_tunnel_degraded", tunnel="own-cloud") == 1
            assert echo.echoes(first)
        eventually(lambda: daemon.tunnel("own-cloud")["degraded"] is None, 10, "there is room again")
        assert lab.request(f"http://{CLOUD_WEB}/").status == 200
        eventually(lambda: pagerduty.open() == [], 70, "the incident is resolved")
        assert echo.echoes(first)
        goes_on(daemon, before)
        first.close()


# --- a local user who wants the port
# --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def squatter(lab: Lab, port: int) -> Iterator[dict[str, int]]:
    """A local user tries to get the port meanwhile; what came of that."""
    argv = program("squat", str(NOBODY), str(port), "0.0.0.0", "127.0.0.1", "10.60.0.2", "::", "::1")
    process = lab.network["facilitator"].popen(*argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    found: dict[str, int] = {}
    try:
        yield found
    finally:
        out, _ = process.communicate()
    found |= json.loads(out)


def kill(pids: list[int]) -> None:
    """SIGKILL to each; one may have ended with the one before it."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def ended(pids: list[int]) -> bool:
    return not any(
        Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
        for pid in pids
    )


@pytest.mark.timed
def test_a_local_user_gets_nothing_of_the_staffs(lab: Lab, config: Config) -> None:
    """Daemon alive, dead, and the client killed under load, with and without the daemon."""
    with lab.daemon(only(config, "own-cloud")) as daemon, lab.poller(CLOUD_WEB) as poller:
        daemon.wait_well()
        began = time.monotonic()
        poller.wait_settled(30, began)
        port, clients = daemon.tunnel("own-cloud")["session"]["port"], daemon.client_pids("sshuttle", "ssh")
        with squatter(lab, port) as alive:
            time.sleep(PHASE)
        assert alive == {"had": 0, "came": 0}
        assert poller.longest(began) < 1.0 * NOISE

        with squatter(lab, port) as killed:
            kill(clients)
            eventually(lambda: ended(clients), 10, "the clients are gone")
            time.sleep(PHASE)
        print("client killed, daemon alive:", killed)
        assert killed["came"] == 0
        poller.wait_settled(30, time.monotonic())  # another port by now

        port, clients = daemon.tunnel("own-cloud")["session"]["port"], daemon.client_pids("sshuttle", "ssh")
        daemon.kill9()
        with squatter(lab, port) as orphaned:
            time.sleep(PHASE)
        assert orphaned == {"had": 0, "came": 0}
        poller.wait_settled(30, time.monotonic())

        with squatter(lab, port) as dead:
            kill(clients)
            time.sleep(2 * PHASE)
        print("client killed, daemon dead:", dead)
        assert dead["had"] > 0
        assert dead["came"] == 0
        daemon.start()
        poller.wait_settled(30, time.monotonic())
