"""Background tasks of the daemon: each runs for ever, and one that fails starts again after a pause."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from supervisor.core.faults import Faults
from supervisor.delivery import REPUBLISH_SECONDS

Task = Callable[[], Coroutine[Any, Any, None]]


class BackgroundTasks:
    """Tasks by name. A failure is a fault of the part `task:NAME` (`supervisor.core.faults`)."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, run: Task) -> None:
        """Run it until it returns, or until `close`. An exception is logged, and it starts again."""
        self._tasks.append(asyncio.create_task(self._supervise(f"task:{name}", run), name=name))

    async def close(self) -> None:
        """Cancel all of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _supervise(self, part: str, run: Task) -> None:
        while True:
            with self._faults.contained(part):
                await run()
                return
            await asyncio.sleep(REPUBLISH_SECONDS)
            self._faults.worked(part)  # until it fails again
