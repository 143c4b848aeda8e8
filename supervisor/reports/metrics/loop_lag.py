"""Event loop lag: how late timers fire, which tells that something blocks the loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from supervisor.ticks import tick_after

INTERVAL_SECONDS = 1.0  # between two measurements
WINDOW_MEASUREMENTS = 60


async def watch(
    report: Callable[[float], None], interval: float = INTERVAL_SECONDS, window: int = WINDOW_MEASUREMENTS
) -> None:
    """Measure until cancelled; after each measurement report the worst delay (seconds) of the last `window`
    ones.
    """
    loop = asyncio.get_running_loop()
    late: deque[float] = deque(maxlen=window)
    while True:
        due = tick_after(interval)
        await asyncio.sleep(due - loop.time())
        late.append(max(0.0, loop.time() - due))
        report(max(late))
