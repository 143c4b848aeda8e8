"""How late the event loop is: the one number that tells that something blocks it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

INTERVAL = 1.0  # seconds between two measurements
WINDOW = 60  # measurements


async def watch(report: Callable[[float], None], interval: float = INTERVAL, window: int = WINDOW) -> None:
    """For ever: report the worst delay (seconds) among the last `window` measurements, after each one."""
    loop = asyncio.get_running_loop()
    late: deque[float] = deque(maxlen=window)
    while True:
        due = loop.time() + interval
        await asyncio.sleep(interval)
        late.append(max(0.0, loop.time() - due))
        report(max(late))
