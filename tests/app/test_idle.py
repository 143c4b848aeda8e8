"""The quiet moment: told of a tunnel that waits for one, and of no other."""

from __future__ import annotations

import asyncio

import pytest

from supervisor.app.watchers.idle import MAX_IDLE_BYTES_PER_SECOND, IdleWatch
from supervisor.core import events as ev
from supervisor.core.state import Session
from tests.fakes import Habits, World
from tests.settings import configured
from tunnels.settings import Login, Tunnel

WINDOW = 0.05


def waiting() -> World:
    """`acme` is up and waits for a quiet moment; `other` is up."""
    tunnels = {
        name: configured(
            Tunnel, name=name, kind="test", destinations=(net,), login=Login(reconnect_on_change=True)
        )
        for name, net in (("acme", "10.1.0.0/24"), ("other", "10.2.0.0/24"))
    }
    world = World(tunnels, Habits())
    world.run(until=10.0)
    world.post(ev.InputsChanged("acme"))
    world.run(until=11.0)
    return world


@pytest.mark.parametrize(
    ("rate", "told"),
    [(0.0, True), (MAX_IDLE_BYTES_PER_SECOND / 4, True), (MAX_IDLE_BYTES_PER_SECOND * 1e4, False)],
)
async def test_it_is_quiet_when_hardly_anything_passes(rate: float, told: bool) -> None:
    world, posted, passed = waiting(), asyncio.Queue[ev.Event](), [0.0]

    def traffic(tunnel: str, session: Session) -> tuple[int, int] | None:
        passed[0] += rate * WINDOW
        return int(passed[0]), 0

    task = asyncio.create_task(IdleWatch(world.engine, traffic, posted.put_nowait, WINDOW).run())
    try:
        if told:
            assert await asyncio.wait_for(posted.get(), 30) == ev.Quiet("acme")
        else:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(posted.get(), WINDOW * 6)
    finally:
        task.cancel()


async def test_nothing_is_counted_while_none_waits() -> None:
    world, asked = waiting(), []
    world.post(ev.Quiet("acme"))
    world.run(until=20.0)
    task = asyncio.create_task(
        IdleWatch(world.engine, lambda *what: asked.append(what), lambda event: None, WINDOW).run()
    )
    await asyncio.sleep(WINDOW * 3)
    task.cancel()
    assert asked == []
