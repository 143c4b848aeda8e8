"""Waiting that wakes the process seldom: what several tasks do every few seconds is done at the same moments.

Each wake-up of an idle process costs more than the little that is then done (timer, scheduler, cold caches).
"""

from __future__ import annotations

import asyncio


def tick_after(seconds: float) -> float:
    """The whole second of the loop's clock that is nearest to so many seconds from now. Less than a second
    is meant exactly.
    """
    moment = asyncio.get_running_loop().time() + seconds
    return float(round(moment)) if seconds >= 1.0 else moment


async def until_tick(seconds: float) -> None:
    """Sleep for so many seconds, half a second more or less: until the tick."""
    await asyncio.sleep(max(0.0, tick_after(seconds) - asyncio.get_running_loop().time()))
