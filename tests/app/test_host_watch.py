"""The host watch by itself, in a namespace of its own: how often it looks, and what it says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import MappingProxyType

import pytest

from supervisor.app.files import Files
from supervisor.app.first_plan import first_plan
from supervisor.app.preflight.clock_watch import ClockWatch
from supervisor.app.preflight.host_watch import (
    DEBOUNCE_SECONDS,
    FIRST_CHECK_SECONDS,
    UNNOTIFIED_RECHECK_SECONDS,
    HostWatch,
)
from supervisor.core.events import ClockSet, Event, Noticed
from supervisor.core.network.plan import NetworkPlan
from supervisor.core.snapshot import Snapshot
from tests.app.test_clock import SettableClock
from tests.doctor.test_host import DOCKER, HostTree
from tests.kernel.lab import until
from tests.netns import Namespace
from tunnels.registry import KINDS

pytestmark = pytest.mark.root


class WatchedDaemon:
    """What the watch wants of the engine; it is asked once for each look."""

    def __init__(self, plan: NetworkPlan) -> None:
        self.plan, self.looks = plan, 0

    @property
    def snapshot(self) -> Snapshot:
        self.looks += 1
        return Snapshot(MappingProxyType({}), 0.0)


@contextlib.asynccontextmanager
async def watching(
    host: HostTree, netns: Namespace, clock: ClockWatch | None = None
) -> AsyncIterator[tuple[HostWatch, WatchedDaemon, list[Event]]]:
    """A watch that runs, after its first look, on a host that forwards."""
    netns.run(
        "sysctl",
        "-qw",
        "net.ipv4.ip_forward=1",
        "net.ipv6.conf.all.forwarding=1",
        "net.ipv4.ping_group_range=0 0",
    )
    config = host.config()
    daemon, posted = WatchedDaemon(first_plan(config, KINDS)), list[Event]()
    files = Files(Path("/"), lambda _: None)
    watch = HostWatch(daemon, KINDS, posted.append, files, clock)  # type: ignore[arg-type]
    watch.set(config)
    task = asyncio.create_task(watch.run())
    try:
        await until(lambda: daemon.looks == 1)
        yield watch, daemon, posted
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_it_looks_once_where_nothing_happens_and_not_much_oftener_where_very_much_does(
    tmp_path: Path, netns: Namespace
) -> None:
    async with watching(HostTree(tmp_path), netns) as (watch, daemon, posted):
        await asyncio.sleep(FIRST_CHECK_SECONDS + 3 * DEBOUNCE_SECONDS)
        assert (daemon.looks, dict(watch.conditions), posted) == (1, {}, [])
        before = daemon.looks
        for _ in range(300):
            watch.changed()
            await asyncio.sleep(0.01)
        assert 2 <= daemon.looks - before <= 2 + 3.0 / DEBOUNCE_SECONDS
        assert posted == []


async def test_a_clock_that_is_set_is_told_within_seconds(tmp_path: Path, netns: Namespace) -> None:
    clock = SettableClock()
    watched = ClockWatch(lambda: clock.wall, lambda: clock.boot)
    async with watching(HostTree(tmp_path), netns, watched) as (_, _, posted):
        assert ClockSet("") not in posted
        clock.wall -= 300.0
        await until(lambda: ClockSet("") in posted, UNNOTIFIED_RECHECK_SECONDS + 5.0)


async def test_what_appears_is_told_once_and_so_is_its_end(tmp_path: Path, netns: Namespace) -> None:
    async with watching(HostTree(tmp_path), netns) as (watch, daemon, posted):
        netns.run("nft", "-f", "-", input=DOCKER)
        watch.changed()
        await until(lambda: watch.conditions)
        assert watch.conditions.keys() == {"third-party-firewall"}
        assert posted == [Noticed("")]
        watch.changed()
        looks = daemon.looks
        await until(lambda: daemon.looks > looks)
        assert (await watch.look()).kernel is not None
        assert posted == [Noticed("")], "nothing new"
        netns.run("nft", "delete", "table", "ip", "filter")
        watch.changed()
        await until(lambda: not watch.conditions)
        assert posted == [Noticed(""), Noticed("")]


async def test_another_configuration_is_judged_at_once(tmp_path: Path, netns: Namespace) -> None:
    host = HostTree(tmp_path)
    async with watching(host, netns) as (watch, daemon, _):
        netns.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=0")
        host.document["tunnels"]["acme"]["destinations"].append("fd00:77::/64")
        host.document["staff"]["networks"].append("fd00:8::/64")
        config = host.config()
        daemon.plan = first_plan(config, KINDS)
        watch.set(config)
        await until(lambda: watch.conditions)
        assert "net.ipv6.conf.all.forwarding is 0" in watch.conditions["kernel-settings"].text
