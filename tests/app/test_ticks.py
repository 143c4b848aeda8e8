"""What is done every few seconds is done at the same moments."""

from __future__ import annotations

import asyncio

import pytest

from supervisor.ticks import tick_after, until_tick


@pytest.mark.parametrize("seconds", [1.0, 2.0, 5.0, 60.0])
async def test_a_tick_is_a_whole_second_and_at_most_half_a_second_off(seconds: float) -> None:
    now = asyncio.get_running_loop().time()
    for _ in range(3):
        tick = tick_after(seconds)
        assert tick == int(tick)
        assert abs(tick - now - seconds) <= 0.6
        await asyncio.sleep(0.01)


async def test_tasks_that_began_at_different_moments_wake_together() -> None:
    woken: list[float] = []

    async def begun_after(pause: float) -> None:
        await asyncio.sleep(pause)
        await until_tick(1.0)  # of the clock, at most half a second off
        await until_tick(1.0)
        woken.append(asyncio.get_running_loop().time())

    await asyncio.gather(*(begun_after(pause) for pause in (0.0, 0.13, 0.29)))
    seconds = {round(moment) for moment in woken}
    assert len(seconds) <= 2, "the tasks that began before a half second, and those after it"
    assert all(abs(moment - round(moment)) < 0.4 for moment in woken)


async def test_less_than_a_second_is_meant_exactly() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await until_tick(0.05)
    assert loop.time() - began >= 0.049
    assert abs(tick_after(0.05) - loop.time() - 0.05) < 0.01
