"""Flaps of each kind under a stream of forwarded datagrams: not one packet leaves in clear.

A flap ends when the tunnel's client is connected again and packets come back out of its device; only then
follows the next one. So each of them hits a tunnel that carries the stream. Beside the stream, a new flow
begins every 10 ms: a flow that nobody has seen yet must be as safe as one that stands.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.lab import DATACENTRE_WEB, Lab, LabDaemon, traffic
from tests.lab.config import Config, only
from tests.lab.traffic import watched
from tests.lab.wait import eventually
from tests.netns import Namespace

pytestmark = pytest.mark.root

RATE = 1000  # datagrams a second
TUNNEL = "acme-dc"


@dataclass(frozen=True)
class FlapRig:
    """The tunnel, and what a flap may do to it."""

    daemon: LabDaemon
    facilitator: Namespace
    laptop: Namespace

    def device_destroyed(self) -> None:
        """Somebody deletes the tunnel's device."""
        before = self._session()
        self.facilitator.run("ip", "link", "del", before["device"])
        self._back(before["id"])

    def client_killed(self) -> None:
        """SIGKILL to the VPN client."""
        before = self._session()
        os.kill(before["pid"], signal.SIGKILL)
        self._back(before["id"])

    def daemon_killed(self) -> None:
        """SIGKILL to the daemon, and a new one, which goes on with the same session."""
        before = self._session()
        self.daemon.kill9()
        self.daemon.start()
        self._goes_on(before)

    def routes_flushed(self) -> None:
        """Somebody flushes every route that is ours."""
        before = self._routes()
        self.facilitator.run("ip", "route", "flush", "table", "all", "proto", "173")
        eventually(lambda: self._routes() == before, 10, "the routes are back")

    def ruleset_flushed(self) -> None:
        """Somebody flushes nftables, his own table with it. A kernel that knows owners of tables spares
        ours.
        """
        before = self._elements()
        self.facilitator.run("nft", "add table inet somebody; flush ruleset")
        assert "somebody" not in self.facilitator.run("nft", "list", "tables").stdout
        eventually(lambda: self._elements() == before, 10, "all elements are there")

    def left_alone(self, flush: str) -> None:
        """The daemon is killed, and somebody flushes one half of what keeps the destinations closed:
        nobody repairs it.
        """
        before = self._session()
        self.daemon.kill9()
        self.facilitator.run(*flush.split())
        assert traffic.request(self.laptop, f"http://{DATACENTRE_WEB}/", timeout=0.2).status == 0
        self.daemon.start()
        self._goes_on(before)

    def _session(self) -> dict[str, object]:
        session: dict[str, object] = self.daemon.tunnel(TUNNEL)["session"]
        return session

    def _back(self, before: object) -> None:
        """The next session is connected, and packets come out of its device."""

        def connected() -> str | None:
            tunnel = self.daemon.tunnel(TUNNEL)
            return (
                tunnel["session"]["device"]
                if tunnel["phase"] == "up" and tunnel["session"]["id"] != before
                else None
            )

        try:
            device = eventually(connected, 30, "the tunnel is connected again")
            eventually(lambda: self._received(device), 10, "packets come back")
        except AssertionError as late:
            raise AssertionError(
                f"{late}: {self.daemon.tunnel(TUNNEL)}\n{self.daemon.log.read_text()[-4000:]}"
            ) from None

    def _goes_on(self, before: dict[str, object]) -> None:
        """The session is what it was, and packets come out of its device."""
        assert self._session()["id"] == before["id"]
        received = self._received(str(before["device"]))
        eventually(lambda: self._received(str(before["device"])) > received, 10, "packets come back")

    def _received(self, device: str) -> int:
        links = json.loads(
            self.facilitator.run("ip", "-j", "-s", "link", "show", "dev", device, check=False).stdout or "[]"
        )
        return sum(link["stats64"]["rx"]["packets"] for link in links)

    def _routes(self) -> list[str]:
        shown = (
            self.facilitator.run("ip", *family, "route", "show", "table", "all", "proto", "173")
            for family in ((), ("-6",))
        )
        return [line for each in shown for line in each.stdout.splitlines()]

    def _elements(self) -> list[str]:
        """Our table, line by line, without its counters."""
        return self.facilitator.run(
            "nft", "-s", "list", "table", "inet", "facilitator", check=False
        ).stdout.splitlines()


@pytest.fixture
def fight(lab: Lab, config: Config) -> Iterator[FlapRig]:
    """A daemon with the one tunnel, which is tried again at once."""
    facilitator = lab.network["facilitator"]
    config = only(config, TUNNEL)
    config["defaults"]["reconnect"] = {"first": "100ms", "max": "100ms", "stable_after": "1ms"}
    daemon = lab.daemon(config)
    with daemon:
        daemon.wait_well()
        yield FlapRig(daemon, facilitator, lab.network["laptop"])
    assert daemon.leftovers() == {}


@contextlib.contextmanager
def new_flows(lab: Lab) -> Iterator[list[int]]:
    """The laptop begins a flow every 10 ms, each from another port, while the context lasts; the list
    holds the ports.
    """
    ended, ports = threading.Event(), []

    def begin() -> None:
        with lab.network["laptop"].entered():
            while not ended.wait(0.01):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                    sender.sendto(b"new", (str(DATACENTRE_WEB), 7))
                    ports.append(sender.getsockname()[1])

    thread = threading.Thread(target=begin)
    thread.start()
    try:
        yield ports
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def streaming(lab: Lab, name: str) -> Iterator[None]:
    """The stream and the new flows, while the context lasts; afterwards nothing was in clear, and traffic
    passes.
    """
    with (
        watched(lab.capture()) as clear,
        lab.flood(DATACENTRE_WEB, rate=RATE) as flood,
        new_flows(lab) as flows,
    ):
        started = time.monotonic()
        yield
        took = time.monotonic() - started
    print(
        f"{name}: {took:.1f} s, {flood.sent} datagrams and {len(flows)} new flows sent, {flood.echoed} "
        f"came back, {len(clear)} in clear"
    )
    assert clear == []
    assert len(flows) > 20 * took
    assert flood.sent > 0.8 * RATE * took
    assert flood.echoed > 10
    lab.reachable_within(DATACENTRE_WEB, 10)


KINDS = (
    FlapRig.device_destroyed,
    FlapRig.client_killed,
    FlapRig.daemon_killed,
    FlapRig.routes_flushed,
    FlapRig.ruleset_flushed,
)


@pytest.mark.parametrize("flap", KINDS, ids=lambda flap: flap.__name__)
def test_flaps_leak_nothing(
    lab: Lab, fight: FlapRig, flap: Callable[[FlapRig], None], pytestconfig: pytest.Config
) -> None:
    """A few in the ordinary suite; `make soak` asks for a hundred of each kind."""
    flaps = pytestconfig.getoption("--flaps")
    with streaming(lab, f"{flaps} times {flap.__name__}"):
        for _ in range(flaps):
            flap(fight)


@pytest.mark.parametrize(
    "flush", ["nft flush ruleset", "ip route flush table all proto 173", "ip rule flush protocol 173"]
)
def test_either_half_of_what_a_dead_daemon_left_is_enough(
    lab: Lab, fight: FlapRig, flush: str, pytestconfig: pytest.Config
) -> None:
    times = max(2, pytestconfig.getoption("--flaps") // 10)
    with streaming(lab, f"{times} times, without a daemon: {flush}"):
        for _ in range(times):
            fight.left_alone(flush)
