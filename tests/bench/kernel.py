"""The kernel's part, beside the standard tools doing the same by hand: ten thousand destinations, and a
forwarded flow.

    python -m tests.bench.kernel

What is compared runs by turns in one process, in private namespaces; what is shown are medians.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Network, ip_network

from rich.console import Console
from rich.table import Table as Shown

from supervisor.core.network.changes import Change, diff
from supervisor.core.network.lanes import FIRST_LANE
from supervisor.core.network.layout import Layout, Route
from supervisor.core.network.plan import Carry, Lane, NetworkPlan
from supervisor.core.network.rules import Rule
from supervisor.core.network.wanted import wanted
from supervisor.kernel.network import KernelNetwork
from supervisor.kernel.route.table import RouteTable
from tests.bench import openvpn
from tests.bench.flow import Compared, TrafficLoad, flows, row
from tests.netns import Namespace

DESTINATIONS, TUNNELS, MOVED = 10_000, 200, 5_000
ROUNDS = 2
FLOW_PAIRS, FLOW_LOAD = 9, TrafficLoad(echoes=5000, transfers=4, size="300M")

Samples = dict[str, list[float]]


def plan() -> NetworkPlan:
    """Half of the destinations at the first tunnel, the others at all but the second, its standby. None of
    them are neighbours.
    """
    lanes = tuple(Lane(f"tunnel-{i}", FIRST_LANE + i, f"d{i}", True) for i in range(TUNNELS))
    networks = [IPv4Network((10 << 24 | number << 9, 24)) for number in range(DESTINATIONS)]
    at = [FIRST_LANE if i < MOVED else FIRST_LANE + 2 + i % (TUNNELS - 2) for i in range(DESTINATIONS)]
    return NetworkPlan((ip_network("172.16.0.0/16"),), lanes, tuple(map(Carry, networks, at, networks)))


def moved(first: NetworkPlan) -> NetworkPlan:
    """The first tunnel's destinations go to the second: a failover."""
    return replace(
        first,
        carries=tuple(replace(c, lane=FIRST_LANE + 1) if c.lane == FIRST_LANE else c for c in first.carries),
    )


# --- ten thousand destinations
# -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def with_devices() -> Iterator[Namespace]:
    """A namespace with all the tunnels' devices, entered."""
    namespace = Namespace("scale")
    try:
        namespace.run(
            "sysctl", "-qw", "net.ipv6.conf.default.addr_gen_mode=1"
        )  # no addresses that come in by and by
        lines = [f"tuntap add d{i} mode tun\nlink set d{i} mtu 1400 up\n" for i in range(TUNNELS)]
        namespace.run("ip", "-batch", "-", input="".join(lines))
        with namespace.entered():
            yield namespace
    finally:
        namespace.remove()


@contextlib.asynccontextmanager
async def stops(found: list[float]) -> AsyncIterator[None]:
    """Adds the longest time, in milliseconds, for which the loop stood still."""
    longest = 0.0

    async def look() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - before)

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()
        found.append(longest * 1000)


async def ours(namespace: Namespace, first: NetworkPlan, second: NetworkPlan, found: Samples) -> str:
    """Apply one plan, then the other; the table as `nft` lists it after the first."""
    network = KernelNetwork(lambda _: None, lambda *_: None)
    start = time.perf_counter()
    await network.start(first)
    found["from nothing"].append((time.perf_counter() - start) * 1000)
    try:
        assert (await network.compare())[1] == []
        await network.settled()  # what our own settings of devices made the kernel tell
        listing = namespace.run("nft", "list", "table", "inet", "facilitator").stdout
        start = time.perf_counter()
        network.set(second)
        await network.settled()
        found["failover"].append((time.perf_counter() - start) * 1000)
        async with stops(found["loop, failover"]):
            network.set(first)
            await network.settled()
        assert (await network.compare())[1] == []
    finally:
        await network.close(keep=True)
    return listing


async def layouts(first: NetworkPlan, second: NetworkPlan) -> tuple[Layout, Layout]:
    """What both plans mean in this namespace."""
    routes = RouteTable()
    routes.open()
    host = routes.host(lane.device for lane in first.lanes if lane.device)
    routes.close()
    return wanted(first, host), wanted(second, host)


def by_hand(listing: str, before: Layout, after: Layout, found: Samples) -> None:
    """The same objects with `ip -batch` and `nft -f`. What they are to do is written beforehand."""
    changes = diff(Layout(), before)
    batches = [(["ip", f"-{version}", "-batch", "-"], ip_batch(changes, version)) for version in (4, 6)]
    # Not the owner: nft itself ends at once.
    batches.append((["nft", "-f", "-"], re.sub(r"^\tflags .*\n", "", listing, flags=re.MULTILINE)))
    found["from nothing"].append(timed(batches))
    found["failover"].append(timed([(["nft", "-f", "-"], nft_batch(before, after))]))


def timed(batches: Sequence[tuple[list[str], str]]) -> float:
    """Milliseconds for all of them, one after the other."""
    start = time.perf_counter()
    for argv, text in batches:
        subprocess.run(argv, input=text, text=True, check=True, capture_output=True)
    return (time.perf_counter() - start) * 1000


def ip_batch(changes: Sequence[Change], version: int) -> str:
    """Lines for `ip -batch`."""
    return "".join(f"{line}\n" for change in changes for line in _ip_lines(change.item, version))


def _ip_lines(item: object, version: int) -> Iterator[str]:
    if isinstance(item, Route) and item.network.version == version:
        kind, device = (
            "" if item.kind == "unicast" else item.kind,
            "" if item.device is None else f"dev {item.device}",
        )
        yield f"route add {kind} {item.network} {device} table {item.table} metric {item.metric} proto 173"
    elif isinstance(item, Rule) and item.version == version:
        yield (
            f"rule add {str(item).removeprefix('rule ').removeprefix('-6 ')} priority {item.priority} "
            f"protocol 173"
        )


def nft_batch(before: Layout, after: Layout) -> str:
    """Lines for `nft -f`, one transaction. What changed is filled anew: nft takes minutes to delete five
    thousand single intervals.
    """
    lines = []
    for name in sorted({element.set for element in before.elements ^ after.elements}):
        elements = (
            str(element).removeprefix(f"element {name} ") for element in after.elements if element.set == name
        )
        lines.append(
            f"flush map inet facilitator {name}\nadd element inet facilitator {name} "
            f"{{ {', '.join(elements)} }}\n"
        )
    return "".join(lines)


def scale(rounds: int) -> tuple[Samples, Samples]:
    """Ours and by hand, by turns, each in a fresh namespace."""
    first = plan()
    second = moved(first)
    mine: Samples = {"from nothing": [], "failover": [], "loop, failover": []}
    theirs: Samples = {"from nothing": [], "failover": []}
    for _ in range(rounds):
        with with_devices() as namespace:
            listing = asyncio.run(ours(namespace, first, second, mine))
        with with_devices():
            by_hand(listing, *asyncio.run(layouts(first, second)), theirs)
    return mine, theirs


# --- the table
# ----------------------------------------------------------------------------------------------------------


def show(mine: Samples, theirs: Samples, flow: Compared) -> None:
    """By hand, ours, and the ratio."""
    table = Shown(
        title=f"kernel: {DESTINATIONS} destinations over {TUNNELS} tunnels; a forwarded flow (medians; "
        f"its ratio with quartiles)"
    )
    for column in ("", "by hand", "facilitator", "ratio", "target"):
        table.add_column(column, justify="left" if not column else "right")
    for name, text, target in (
        ("from nothing", f"apply {DESTINATIONS} destinations, ms", "<= 3"),
        ("failover", f"{MOVED} of them to another tunnel, ms", "<= 1"),
    ):
        hand, our = statistics.median(theirs[name]), statistics.median(mine[name])
        table.add_row(text, f"{hand:.0f}", f"{our:.0f}", f"{our / hand:.2f}", target)
    table.add_row(
        "  the loop's longest stop in that, ms",
        "-",
        f"{statistics.median(mine['loop, failover']):.0f}",
        "-",
        "-",
    )
    table.add_row(*row("TCP through it, Mbit/s", flow.speeds, flow.faster))
    table.add_row(*row("round trip through it, us", flow.trips, flow.sooner))
    Console(width=120).print(table)


def main() -> None:
    """Measure and print."""
    show(*scale(ROUNDS), asyncio.run(flows(FLOW_PAIRS, FLOW_LOAD)))
    openvpn.main()


if __name__ == "__main__":
    main()
