"""What the kernel tells of flows in our lanes: each of them once at both ends, nothing of others, and how
much was missed.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

import pytest

from supervisor.core.views.audit_lines import Entry, FlowChange, FlowRecord, Gap
from supervisor.kernel.conntrack.flow_events import FlowEvents
from tests.kernel.lab import (
    ACME,
    DEADLINE,
    HIDDEN,
    OWN,
    PLAN,
    PRESENTED,
    SITE,
    SITE6,
    STAFF,
    STAFF6,
    KernelWorld,
    ask,
    kernel,
    made_in,
    server,
    until,
    world,
)
from tests.netns import Namespace

pytestmark = pytest.mark.root
ACCOUNTING = replace(PLAN, accounting=True)


@pytest.fixture
def lab(netns: Namespace) -> Iterator[KernelWorld]:
    with world(netns) as made:
        yield made


@dataclass
class FlowLog:
    """What was told so far."""

    entries: list[Entry] = field(default_factory=list)
    began: threading.Event = field(default_factory=threading.Event)
    held_up: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.held_up.set()

    def take(self, entries: list[Entry]) -> None:
        self.entries.extend(entries)
        self.began.set()  # it is told at once of what is there, be it nothing
        self.held_up.wait()

    def flows(self, told: FlowChange) -> list[FlowRecord]:
        return [entry for entry in self.entries if isinstance(entry, FlowRecord) and entry.change is told]

    def lost(self, told: FlowChange) -> int:
        return sum(entry.lost.get(told.value, 0) for entry in self.entries if isinstance(entry, Gap))


@contextlib.contextmanager
def watching(buffer: int = 1 << 20) -> Iterator[FlowLog]:
    """A watch on the flows of this thread's namespace."""
    told = FlowLog()
    watch = FlowEvents(told.take, buffer)
    watch.start()
    assert told.began.wait(DEADLINE)
    try:
        yield told
    finally:
        told.held_up.set()
        watch.close()


def sides(flow: FlowRecord) -> tuple[str, str, int, str]:
    return (
        str(ip_address(flow.source)),
        str(ip_address(flow.destination)),
        flow.destination_port,
        str(ip_address(flow.real)),
    )


async def test_a_connection_begins_and_ends_with_its_bytes_both_addresses_and_how_long_it_lasted(
    lab: KernelWorld,
) -> None:
    async with kernel(ACCOUNTING), server(lab.site), server(lab.facilitator, 17300):
        with watching() as told:
            for address in (SITE, SITE6, PRESENTED, "10.90.0.1"):
                await ask(lab.staff, address)
            await until(lambda: len(told.flows(FlowChange.OPEN)) == 4)
            lab.facilitator.run("conntrack", "-F")
            await until(lambda: len(told.flows(FlowChange.CLOSE)) == 4)
    opened, closed = told.flows(FlowChange.OPEN), told.flows(FlowChange.CLOSE)
    assert [sides(flow) for flow in opened] == [
        (STAFF, SITE, 80, SITE),
        (STAFF6, SITE6, 80, SITE6),
        (STAFF, PRESENTED, 80, HIDDEN),
        (STAFF, "10.90.0.1", 80, "10.8.0.1"),
    ]
    assert [flow.lane for flow in opened] == [ACME, ACME, ACME, OWN]
    assert {flow.id for flow in opened} == {flow.id for flow in closed}
    for flow in closed:
        assert flow.protocol == 6
        assert flow.state
        assert flow.began is not None
        assert 0.0 <= flow.at - flow.began < 60.0
        assert flow.sent is not None
        assert flow.sent[0] >= 3
        assert flow.sent[1] > 3 * 52
        assert flow.received is not None
        assert flow.received[0] >= 2


async def test_protocols_without_ports_are_told_too(lab: KernelWorld) -> None:
    async with kernel(ACCOUNTING):
        with watching() as told:
            for address in (SITE, SITE6):
                lab.staff.run("ping", "-c", "1", "-W", "5", address)
            await until(lambda: len(told.flows(FlowChange.OPEN)) == 2)
    assert [(flow.protocol, flow.source_port, sides(flow)) for flow in told.flows(FlowChange.OPEN)] == [
        (1, 0, (STAFF, SITE, 0, SITE)),
        (58, 0, (STAFF6, SITE6, 0, SITE6)),
    ]


async def test_flows_that_are_there_already_are_told_once(lab: KernelWorld) -> None:
    async with kernel(ACCOUNTING), server(lab.site):
        await ask(lab.staff, SITE)
        with watching() as told:
            await until(lambda: told.flows(FlowChange.ALREADY))
            lab.facilitator.run("conntrack", "-D", "-m", str(ACME))
            await until(lambda: told.flows(FlowChange.CLOSE))
    (there,), (closed,) = told.flows(FlowChange.ALREADY), told.flows(FlowChange.CLOSE)
    assert there.id == closed.id
    assert there.began is not None
    assert there.sent is not None
    assert not told.flows(FlowChange.OPEN)


async def test_flows_of_others_are_not_seen(lab: KernelWorld) -> None:
    async with kernel(ACCOUNTING), server(lab.facilitator, 8080), server(lab.site):
        with watching() as told:
            await ask(lab.staff, "10.8.0.1", 8080)
            await ask(lab.staff, SITE)
            lab.facilitator.run("conntrack", "-F")
            await until(lambda: told.flows(FlowChange.CLOSE))
    assert [sides(flow)[1] for flow in (*told.flows(FlowChange.OPEN), *told.flows(FlowChange.CLOSE))] == [
        SITE,
        SITE,
    ]


async def test_what_finds_no_room_is_counted_to_the_last_flow(lab: KernelWorld) -> None:
    flows = 3000
    async with kernel(ACCOUNTING):
        with watching(buffer=1 << 17) as told:
            told.held_up.clear()
            with made_in(lab.staff, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
                for port in range(flows):
                    sender.sendto(b"x", (SITE, 1000 + port))
            lab.facilitator.run("conntrack", "-D", "-m", str(ACME))
            told.held_up.set()
            for kind in (FlowChange.OPEN, FlowChange.CLOSE):
                await until(lambda kind=kind: len(told.flows(kind)) + told.lost(kind) == flows)
                assert told.lost(kind) > 0
    gap = next(entry for entry in told.entries if isinstance(entry, Gap))
    assert gap.cause == "kernel-buffer"
    assert gap.since <= gap.until


async def test_somebody_switches_the_accounting_off_and_it_is_repaired(lab: KernelWorld) -> None:
    async with kernel(ACCOUNTING) as held:
        lab.facilitator.run("sysctl", "-qw", "net.netfilter.nf_conntrack_acct=0")
        lab.tunnel_down()  # any hint makes it look again
        await until(
            lambda: lab.facilitator.run("sysctl", "-n", "net.netfilter.nf_conntrack_acct").stdout == "1\n"
        )
        assert held.network.repairs["sysctl"] >= 1
