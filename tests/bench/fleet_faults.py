"""What a fleet does when its lock engine is away or restarted, when only one member cannot reach a
destination, and at 10 % loss; and what membership costs an idle daemon.

    python -m tests.bench.fleet_faults [--away 600] [--restarts 10] [--unreachable 10] [--loss 1800]
        [--idle 60]

Traffic, tunnels, router and engine are those of `tests.bench.fleet`. Each number of 0 leaves that part out.
Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from tests.bench.cost import cpu_seconds, pss_mib
from tests.bench.fleet import BenchedFleet, outages
from tests.lab.fleet_traffic import Crossing, carrier, crossing, other
from tests.lab.network import CUSTOMER, DATACENTRE_WEB
from tests.lab.wait import eventually

LOOK_SECONDS = 0.2  # between two looks at the router's route
RESTART_SECONDS = 15.0  # of traffic around a restart of all lock servers


def engine_away(fleet: BenchedFleet, seconds: float) -> tuple[Crossing, int]:
    """All nodes of etcd are silent for so long; what staff saw, and how often the route moved."""
    fleet.settle()
    with crossing(fleet.lab) as seen:
        fleet.cluster.halt()
        try:
            moves = watched(fleet, seconds)
        finally:
            fleet.cluster.go_on()
        eventually(lambda: not conditions(fleet), 120, "everything resumes by itself")
    return seen, moves


def engine_restarted(fleet: BenchedFleet) -> tuple[Crossing, int]:
    """All nodes of etcd are killed and started again."""
    fleet.settle()
    with crossing(fleet.lab) as seen:
        for node in fleet.cluster.nodes:
            node.kill()
        moves = watched(fleet, RESTART_SECONDS / 3)
        for node in fleet.cluster.nodes:
            node.start()
        eventually(lambda: fleet.cluster.leader() is not None, 30, "etcd has a leader again")
        moves += watched(fleet, RESTART_SECONDS)
    return seen, moves


def unreachable(fleet: BenchedFleet) -> float:
    """Only the member that carries cannot reach the destination, though its tunnel is up; seconds until staff
    get answers again.
    """
    fleet.settle()
    member = carrier(fleet.lab)
    address = fleet.daemons[member].tunnel("acme-dc")["session"]["address"]
    customer = fleet.lab.network["customer"]
    drops = f"type filter hook forward priority 0; ip saddr {address} ip daddr {DATACENTRE_WEB} drop;"
    try:
        return fleet.lab.outage(
            DATACENTRE_WEB,
            lambda: customer.run("nft", f"add table inet one; add chain inet one f {{ {drops} }}"),
            until=lambda: fleet.lab.via() == other(member).address,
        ).seconds
    finally:
        customer.run("nft", "delete table inet one")


def lossy(fleet: BenchedFleet, seconds: float) -> int:
    """One packet in ten between members and customer is lost, at random; how often the route moved."""
    fleet.settle()
    table = "add table inet loss; add chain inet loss f { type filter hook forward priority 0; };" + "".join(
        f"add rule inet loss f ip {end} {CUSTOMER} numgen random mod 10 0 drop;" for end in ("saddr", "daddr")
    )
    transport = fleet.lab.network["transport"]
    transport.run("nft", table)
    try:
        with crossing(fleet.lab, streams=5, rate=100):
            return watched(fleet, seconds)
    finally:
        transport.run("nft", "delete table inet loss")


def idle(fleet: BenchedFleet, seconds: float) -> tuple[str, str]:
    """CPU in ms per second, and PSS in MiB, of a daemon with and without its fleet, as text."""
    fleet.settle()
    member = other(carrier(fleet.lab))
    daemon = fleet.daemons[member]
    found = []
    whole = fleet.configuration(member)
    for config in (whole, {key: each for key, each in whole.items() if key != "fleet"}):
        daemon.stop()
        daemon.configure(config)
        daemon.start()
        daemon.wait_well()
        time.sleep(15.0)  # for what happens once after a start
        before = cpu_seconds(daemon.pid)
        time.sleep(seconds)
        found.append(((cpu_seconds(daemon.pid) - before) / seconds * 1000, pss_mib(daemon.pid)))
    (with_cpu, with_pss), (cpu, pss) = found
    return (
        f"{with_cpu:.2f} ms/s with, {cpu:.2f} without: {with_cpu - cpu:.2f} for membership",
        f"{with_pss:.1f} MiB with, {pss:.1f} without: {with_pss - pss:.1f}",
    )


def watched(fleet: BenchedFleet, seconds: float) -> int:
    """How often the router's route has changed in so many seconds."""
    end, before, moves = time.monotonic() + seconds, fleet.lab.via(), 0
    while time.monotonic() < end:
        now = fleet.lab.via()
        moves += now != before
        if now != before:
            print(f"the route leads to {now}, until now to {before}", flush=True)
        before = now
        time.sleep(LOOK_SECONDS)
    return moves


def conditions(fleet: BenchedFleet) -> list[str]:
    """The conditions of all members that are about the fleet."""
    shown = (each for daemon in fleet.daemons.values() for each in daemon.status()["conditions"])
    return [each["name"] for each in shown if each["name"].startswith("fleet-")]


def rows(fleet: BenchedFleet, given: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """Each part's row of the table, as soon as it is known."""
    if given.unreachable:
        seconds = [unreachable(fleet) for _ in range(given.unreachable)]
        yield "destination unreachable from one member", str(len(seconds)), outages(seconds)
    if given.restarts:
        ended = [engine_restarted(fleet) for _ in range(given.restarts)]
        pauses = statistics.median(each.pause for each, _ in ended) * 1000
        lost, broken = sum(each.lost for each, _ in ended), sum(each.broken for each, _ in ended)
        text = f"{sum(moves for _, moves in ended)} moves, {lost} lost, {broken} broken, {pauses:.0f} ms"
        yield "lock servers killed and restarted", str(given.restarts), text
    if given.away:
        seen, moves = engine_away(fleet, given.away)
        yield f"etcd away for {given.away} s", "1", f"{moves} moves, {seen}"
    if given.loss:
        yield f"10 % loss for {given.loss} s", "1", f"{lossy(fleet, given.loss)} moves"
    if given.idle:
        cpu, pss = idle(fleet, given.idle)
        yield f"idle for {given.idle} s, CPU", "1", cpu
        yield "idle, PSS", "1", pss


def main() -> None:
    """Print one table."""
    words = argparse.ArgumentParser(prog="python -m tests.bench.fleet_faults")
    defaults = (("away", 600), ("restarts", 10), ("unreachable", 10), ("loss", 1800), ("idle", 60))
    for name, default in defaults:
        words.add_argument(f"--{name}", type=int, default=default)
    table = Table("what happens", "n", "what staff see")
    with contextlib.ExitStack() as running:
        fleet = BenchedFleet(running)
        for row in rows(fleet, words.parse_args()):
            table.add_row(*row)
            print(*row, sep=" | ", flush=True)
    Console(width=150 if not sys.stdout.isatty() else None).print(table)


if __name__ == "__main__":
    main()
