"""The way out of a host: what makes it dead, and what does not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from supervisor.core.events import Event, UplinkChanged, UplinkDoubted
from supervisor.kernel.uplink import READ_SECONDS, ROUNDS, RoutingChanges, UplinkWatch
from tests.netns import Namespace, link

pytestmark = pytest.mark.root


@pytest.fixture
def host() -> Iterator[tuple[Namespace, Namespace]]:
    """A host with a default route, and its gateway."""
    ours, gateway = Namespace("uplink-a"), Namespace("uplink-b")
    try:
        link(ours, "out", gateway, "in")
        ours.run("ip", "address", "add", "198.51.100.2/30", "dev", "out")
        gateway.run("ip", "address", "add", "198.51.100.1/30", "dev", "in")
        ours.run("ip", "route", "add", "default", "via", "198.51.100.1")
        yield ours, gateway
    finally:
        ours.remove()
        gateway.remove()


@contextlib.asynccontextmanager
async def watched(
    host: Namespace, *, doubts: bool = False
) -> AsyncIterator[tuple[UplinkWatch, asyncio.Queue[Event]]]:
    """A watch that looks every 50 ms, and what it tells."""
    told: asyncio.Queue[Event] = asyncio.Queue()
    with host.entered():
        watch = UplinkWatch(
            lambda event: told.put_nowait(event) if doubts or isinstance(event, UplinkChanged) else None,
            interval=0.05,
        )
        task = asyncio.create_task(watch.run())
        await asyncio.sleep(0)
        try:
            yield watch, told
        finally:
            task.cancel()
            await asyncio.wait([task])


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


async def change(told: asyncio.Queue[Event]) -> UplinkChanged:
    event = await asyncio.wait_for(told.get(), READ_SECONDS / 2)
    assert isinstance(event, UplinkChanged)
    return event


@pytest.mark.parametrize(
    ("cut", "mend", "said"),
    [
        ("ip link set in down", "ip link set in up", "out has no carrier"),
        (
            "ip address del 198.51.100.1/30 dev in",
            "ip address add 198.51.100.1/30 dev in",
            "the gateway 198.51.100.1 on out does not answer",
        ),
    ],
)
async def test_a_dead_gateway_is_told_and_its_return_too(
    host: tuple[Namespace, Namespace], cut: str, mend: str, said: str
) -> None:
    ours, gateway = host
    async with watched(ours) as (watch, told):
        await asyncio.to_thread(gateway.run, *cut.split())
        assert await change(told) == UplinkChanged("", alive=False, text=said)
        await asyncio.to_thread(gateway.run, *mend.split())
        assert (await change(told)).alive


@pytest.mark.parametrize("cut", ["ip link set in down", "ip address del 198.51.100.1/30 dev in"])
async def test_doubts_come_before_the_verdict(host: tuple[Namespace, Namespace], cut: str) -> None:
    ours, gateway = host
    async with watched(ours, doubts=True) as (watch, told):
        await until(lambda: watch.settled)
        await asyncio.to_thread(gateway.run, *cut.split())
        last: list[Event] = []
        while not (last and isinstance(last[-1], UplinkChanged)):
            last.append(await asyncio.wait_for(told.get(), 60))
        assert last[-2:-1] == [UplinkDoubted("", doubted=True)]
        assert (await asyncio.wait_for(told.get(), 60)) == UplinkDoubted("", doubted=False)


async def test_a_default_route_that_is_gone(host: tuple[Namespace, Namespace]) -> None:
    ours, _ = host
    async with watched(ours) as (watch, told):
        await until(lambda: watch.default_routes)
        await asyncio.to_thread(ours.run, "ip", "route", "del", "default")
        assert await change(told) == UplinkChanged("", alive=False, text="there is no default route any more")


async def test_without_a_gateway_a_notification_is_enough(host: tuple[Namespace, Namespace]) -> None:
    ours, gateway = host
    ours.run("ip", "route", "replace", "default", "dev", "out")
    async with watched(ours) as (watch, told):
        await until(lambda: watch.default_routes)
        for _ in range(2):
            await asyncio.to_thread(gateway.run, "ip", "link", "set", "in", "down")
            assert await change(told) == UplinkChanged("", alive=False, text="out has no carrier")
            await asyncio.to_thread(gateway.run, "ip", "link", "set", "in", "up")
            assert (await change(told)).alive


async def test_a_second_way_out_is_enough_and_none_at_all_is_nothing_to_lose(
    host: tuple[Namespace, Namespace],
) -> None:
    ours, gateway = host
    ours.run("ip", "address", "add", "fd00:51::2/64", "dev", "out", "nodad")
    gateway.run("ip", "address", "add", "fd00:51::1/64", "dev", "in", "nodad")
    ours.run("ip", "route", "add", "::/0", "via", "fd00:51::1")
    async with watched(ours) as (watch, told):
        await asyncio.to_thread(gateway.run, "ip", "address", "del", "198.51.100.1/30", "dev", "in")
        await until(lambda: watch.silent)
        await asyncio.sleep(ROUNDS * 0.1)  # as long as the verdict would have taken
        assert told.empty()
    lonely = Namespace("uplink-c")
    try:
        async with watched(lonely) as (watch, told):
            await asyncio.sleep(0.5)
            assert told.empty()
    finally:
        lonely.remove()


async def test_a_change_among_more_than_the_socket_holds_is_noticed(
    host: tuple[Namespace, Namespace],
) -> None:
    ours, _ = host
    with ours.entered():
        changes = RoutingChanges()
    try:
        assert not changes.take()
        routes = "".join(f"route add 10.{n}.0.0/16 dev out\n" for n in range(200))
        await asyncio.to_thread(ours.run, "ip", "-batch", "-", input=routes)
        assert changes.take()
        assert not changes.take()
        await asyncio.to_thread(ours.run, "ip", "route", "del", "default")
        assert changes.take()
    finally:
        changes.close()
