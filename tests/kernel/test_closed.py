"""Fail-closed: whatever happens to the tunnel, to our entries or to the daemon, nothing leaves in clear."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest

from supervisor.core.network.plan import NetworkPlan
from tests.kernel.lab import (
    ACME,
    DOWN,
    MANY,
    PLAN,
    PRESENTED,
    SITE,
    SITE6,
    SO_MARK,
    KernelUnderTest,
    KernelWorld,
    PacketStream,
    UplinkCapture,
    kernel,
    until,
    world,
)
from tests.netns import Namespace

pytestmark = pytest.mark.root


@pytest.fixture
def lab(netns: Namespace) -> Iterator[KernelWorld]:
    with world(netns) as made:
        yield made


async def run(lab: KernelWorld, *command: str) -> None:
    process = await asyncio.create_subprocess_exec(*lab.facilitator.argv(*command))
    await process.wait()


async def device_vanishes(lab: KernelWorld, held: KernelUnderTest) -> None:
    await run(lab, "ip", "link", "del", "t-acme")
    await until(lambda: held.lost)


async def device_flaps(lab: KernelWorld, held: KernelUnderTest) -> None:
    for state in ("down", "up", "down", "up"):
        await run(lab, "ip", "link", "set", "t-acme", state)


async def routes_flushed(lab: KernelWorld, held: KernelUnderTest) -> None:
    await run(lab, "ip", "route", "flush", "proto", "173")
    await run(lab, "ip", "-6", "route", "flush", "proto", "173")


async def lane_tables_and_rules_flushed(lab: KernelWorld, held: KernelUnderTest) -> None:
    for family in ("-4", "-6"):
        await run(lab, "ip", family, "route", "flush", "table", "173001")
        await run(lab, "ip", family, "rule", "del", "fwmark", "173001")


async def rules_gone_and_back(lab: KernelWorld, held: KernelUnderTest) -> None:
    """All of ours, those by which packets jump first and last; nftables is nobody's help."""
    await run(lab, "nft", "delete", "table", "inet", "facilitator")
    for family in ("-4", "-6"):
        for priority in ("173", "100", "101"):
            await run(lab, "ip", family, "rule", "del", "priority", priority)
        await run(lab, "ip", family, "rule", "flush", "protocol", "173")


async def nftables_flushed(lab: KernelWorld, held: KernelUnderTest) -> None:
    await run(lab, "nft", "flush", "ruleset")


async def daemon_gone(lab: KernelWorld, held: KernelUnderTest) -> None:
    """As after SIGKILL: the sockets close, nobody repairs; then the tunnel goes and somebody flushes our
    routes.
    """
    await held.network.close(keep=True)
    await run(lab, "ip", "link", "del", "t-acme")
    await routes_flushed(lab, held)


async def daemon_and_table_gone(lab: KernelWorld, held: KernelUnderTest) -> None:
    """The other half alone: the routes close without nftables."""
    await held.network.close(keep=True)
    await run(lab, "nft", "delete", "table", "inet", "facilitator")
    await run(lab, "ip", "link", "del", "t-acme")


@pytest.mark.parametrize(
    "happening",
    [
        device_vanishes,
        device_flaps,
        routes_flushed,
        lane_tables_and_rules_flushed,
        nftables_flushed,
        daemon_gone,
        daemon_and_table_gone,
    ],
)
@pytest.mark.parametrize("table_flags", [6, 0], ids=["owned", "unowned"])
async def test_nothing_leaks(
    lab: KernelWorld, happening: Callable[[KernelWorld, KernelUnderTest], Awaitable[None]], table_flags: int
) -> None:
    async with kernel(PLAN, table_flags=table_flags) as held:
        capture, stream = UplinkCapture(lab), PacketStream(lab)
        await stream.packets(100)
        await happening(lab, held)
        await stream.packets(200)
        await stream.stop()
        assert await capture.leaked() == []


@pytest.mark.parametrize("happening", [routes_flushed, lane_tables_and_rules_flushed, rules_gone_and_back])
@pytest.mark.parametrize("table_flags", [6, 0], ids=["owned", "unowned"])
async def test_nothing_leaks_among_many_lanes(
    lab: KernelWorld, happening: Callable[[KernelWorld, KernelUnderTest], Awaitable[None]], table_flags: int
) -> None:
    async with kernel(MANY, table_flags=table_flags) as held:
        capture, stream = UplinkCapture(lab), PacketStream(lab)
        await stream.packets(100)
        await happening(lab, held)
        await stream.packets(200)
        await stream.stop()
        assert await capture.leaked() == []
        await held.in_place()


async def test_without_a_mark_it_is_closed_behind_all_jumps(lab: KernelWorld) -> None:
    """The routes close alone: no table of nftables, no daemon, and in the end no rule that jumps."""
    async with kernel(MANY) as held:
        await held.network.close(keep=True)
    lab.facilitator.run("nft", "delete", "table", "inet", "facilitator")
    for address, family in ((SITE, "-4"), (SITE6, "-6")):
        for priority in ("", "173", "101", "100"):
            if priority:
                lab.facilitator.run("ip", family, "rule", "del", "priority", priority)
            found = lab.facilitator.run("ip", family, "route", "get", address, check=False)
            assert "No route to host" in found.stderr or "unreachable" in found.stdout, (priority, found)


async def test_neither_strangers_nor_the_host_itself_leak_without_our_routes(lab: KernelWorld) -> None:
    """Only nftables is left: no daemon, no route, no rule of ours."""
    async with kernel(PLAN) as held:
        await held.network.close(keep=True)
    await routes_flushed(lab, held)
    await lane_tables_and_rules_flushed(lab, held)
    capture = UplinkCapture(lab)
    senders = [
        (lab.staff, "10.9.0.5", 0, SITE),  # not staff
        (lab.facilitator, "", 0, SITE),
        (lab.facilitator, "", 0, SITE6),
        (lab.facilitator, "", ACME, SITE),
        (lab.facilitator, "", ACME, PRESENTED),  # probes
    ]
    for namespace, source, mark, address in senders:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with namespace.entered(), socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
            sock.bind((source, 0))
            with contextlib.suppress(PermissionError):  # what the output chain drops, the sender is told
                sock.sendto(b"x", (address, 9))
    assert await capture.leaked() == []


async def test_nothing_leaks_while_plans_change(lab: KernelWorld) -> None:
    async with kernel(DOWN) as held:
        capture, stream = UplinkCapture(lab), PacketStream(lab)
        for plan in (PLAN, DOWN) * 3:
            await held.holds(plan)
            await stream.packets(30)
        await stream.stop()
        assert await capture.leaked() == []


async def test_the_same_packets_do_leak_where_nothing_closes(lab: KernelWorld) -> None:
    """So the tests above can fail."""
    async with kernel(NetworkPlan()):
        capture, stream = UplinkCapture(lab), PacketStream(lab)
        await stream.packets(100)
        await stream.stop()
        assert len(await capture.leaked()) > 50
