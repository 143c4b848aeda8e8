"""A forwarded flow through our rules beside one through a route and a masquerade made by hand.

Two facilitators side by side, one of each sort, asked by turns, datagram by datagram: whatever else this host
does disturbs both alike. Then they change their roles, so that what distinguishes the two worlds cancels out.
`flows` is the kernel's way alone; `tests.bench.openvpn` has tunnels.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from supervisor.core.network.plan import NetworkPlan
from supervisor.kernel.network import KernelNetwork
from tests.bench.echo import PORT
from tests.kernel.lab import PLAN, SITE, TUNNEL, KernelWorld, world
from tests.netns import Namespace

CPU = min(os.sched_getaffinity(0))
ECHO = (
    "taskset",
    "--cpu-list",
    str(CPU),
    sys.executable,
    "-I",
    "-S",
    str(Path(__file__).with_name("echo.py")),
)
LOST_AFTER = 0.5  # seconds


@dataclass(frozen=True, slots=True)
class TrafficLoad:
    """What is sent in one turn."""

    echoes: int  # datagrams there and back
    transfers: int  # TCP transfers
    size: str  # of each, as iperf3 writes it


@dataclass(frozen=True, slots=True)
class Turn:
    """What the two forwardings were measured to do side by side."""

    ours: float
    by_hand: float

    @property
    def ratio(self) -> float:
        """Ours for one by hand."""
        return self.ours / self.by_hand


@dataclass
class Compared:
    """All turns. Two that follow each other have the roles exchanged."""

    trips: list[Turn] = field(default_factory=list)  # microseconds there and back
    speeds: list[Turn] = field(default_factory=list)  # Mbit/s

    @property
    def sooner(self) -> list[float]:
        """By how much ours answers sooner, for each pair of turns: 1 is the same."""
        return [1 / each for each in _exchanged(self.trips)]

    @property
    def faster(self) -> list[float]:
        """By how much ours carries more, for each pair of turns: 1 is the same."""
        return _exchanged(self.speeds)


def _exchanged(turns: list[Turn]) -> list[float]:
    return [math.sqrt(one.ratio * other.ratio) for one, other in zip(turns[::2], turns[1::2], strict=True)]


def row(text: str, turns: list[Turn], ratios: list[float]) -> tuple[str, ...]:
    """By hand, ours, the ratio with its quartiles, and what is wanted."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    hand, our = (
        statistics.median(values) for values in ([t.by_hand for t in turns], [t.ours for t in turns])
    )
    return text, f"{hand:.4g}", f"{our:.4g}", f"{middle:.3f} ({low:.3f}-{high:.3f})", ">= 0.97"


async def compared(
    first: KernelWorld, second: KernelWorld, plan: NetworkPlan, pairs: int, load: TrafficLoad
) -> Compared:
    """So many pairs of turns. Both worlds have a tunnel that is up, and the servers of `serving`."""
    seen = Compared()
    for _ in range(pairs):
        for ours, other in ((first, second), (second, first)):
            with ours.facilitator.entered(), forwarding_by_hand(other):
                network = KernelNetwork(lambda _: None, lambda *_: None)
                await network.start(plan)
                await network.settled()
                await asyncio.to_thread(_turn, seen, ours, other, load)
                await network.close(keep=False)
    return seen


def _turn(seen: Compared, ours: KernelWorld, other: KernelWorld, load: TrafficLoad) -> None:
    seen.trips.append(_echoes(ours, other, load.echoes))
    speeds: dict[int, list[float]] = {0: [], 1: []}
    for number in range(2 * load.transfers):
        which = (number + number // 2) % 2  # 0 1 1 0: nobody is always the one after the same
        speeds[which].append(_speed((ours, other)[which], load.size))
    seen.speeds.append(Turn(statistics.median(speeds[0]), statistics.median(speeds[1])))


def _echoes(ours: KernelWorld, other: KernelWorld, count: int) -> Turn:
    took: dict[int, list[float]] = {0: [], 1: []}
    with _on_one_cpu(), _asker(ours) as mine, _asker(other) as theirs:
        for number in range(2 * count):
            which = (number + number // 2) % 2
            if (trip := _trip((mine, theirs)[which])) is not None:
                took[which].append(trip)
    return Turn(statistics.median(took[0]), statistics.median(took[1]))


@contextlib.contextmanager
def _on_one_cpu() -> Iterator[None]:
    """The calling thread is where the servers are: to wake another CPU costs more, and varies more, than
    the way.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {CPU})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _asker(lab: KernelWorld) -> Iterator[socket.socket]:
    with lab.staff.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.connect((SITE, PORT))
        sock.settimeout(LOST_AFTER)
        yield sock


def _trip(sock: socket.socket) -> float | None:
    start = time.perf_counter()
    sock.send(b"x" * 64)
    try:
        sock.recv(2048)
    except TimeoutError:
        return None  # lost
    return (time.perf_counter() - start) * 1e6


def _speed(lab: KernelWorld, size: str) -> float:
    end = json.loads(lab.staff.run("iperf3", "-J", "-c", SITE, "-n", size).stdout)["end"]
    return float(end["sum_received"]["bits_per_second"]) / 1e6


@contextlib.contextmanager
def forwarding_by_hand(lab: KernelWorld) -> Iterator[None]:
    """What a careful person would set up: the assigned address, a route and a masquerade."""
    lab.facilitator.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    lab.facilitator.run("ip", "address", "add", f"{TUNNEL}/24", "dev", "t-acme")
    lab.facilitator.run("ip", "route", "add", "10.77.0.0/24", "dev", "t-acme", "via", "10.78.0.1")
    lab.facilitator.run(
        "nft",
        "-f",
        "-",
        input="""table ip nat {
        chain postrouting { type nat hook postrouting priority 100; oifname "t-acme" masquerade; }
    }""",
    )
    try:
        yield
    finally:
        lab.facilitator.run("nft", "delete", "table", "ip", "nat")
        lab.facilitator.run("ip", "route", "del", "10.77.0.0/24")
        lab.facilitator.run("ip", "address", "del", f"{TUNNEL}/24", "dev", "t-acme")


def start(running: contextlib.ExitStack, place: Namespace, *argv: str, ready: str) -> None:
    """Start a program, and wait for these words of it; it ends with the stack."""
    process = place.popen(*argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    running.callback(process.wait)
    running.callback(process.kill)
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if ready in line:
            threading.Thread(target=process.stdout.read, daemon=True).start()  # a full pipe would stop it
            return
    raise AssertionError("".join(lines))


@contextlib.contextmanager
def serving(lab: KernelWorld) -> Iterator[None]:
    """The servers of a site that has its address."""
    with contextlib.ExitStack() as running:
        start(running, lab.site, "iperf3", "-s", "--forceflush", ready="listening")
        start(running, lab.site, *ECHO, SITE, ready="serving")
        yield


@contextlib.contextmanager
def forwarding() -> Iterator[KernelWorld]:
    """Staff, facilitator and site, with a cable as the tunnel."""
    namespace = Namespace("flow")
    try:
        with world(namespace) as lab, serving(lab):
            yield lab
    finally:
        namespace.remove()


async def flows(pairs: int, load: TrafficLoad) -> Compared:
    """Through the kernel alone."""
    with forwarding() as first, forwarding() as second:
        return await compared(first, second, PLAN, pairs, load)
