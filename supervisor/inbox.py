"""The one way in: everything that happens is put into the inbox as an event, and the engine takes it out."""

from __future__ import annotations

import asyncio
import contextlib

from supervisor.core.events import Event


class Inbox:
    """Where everything that happens is put. Only from the loop's own thread."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Event] = asyncio.Queue()

    def post(self, event: Event) -> None:
        """Put an event in; returns at once."""
        self._queue.put_nowait(event)

    @property
    def empty(self) -> bool:
        """Nothing is in it."""
        return self._queue.empty()

    def take(self) -> list[Event]:
        """All that is in it, in order."""
        return [self._queue.get_nowait() for _ in range(self._queue.qsize())]

    async def wait(self, seconds: float | None) -> list[Event]:
        """All that is in it as soon as there is something; nothing, after that many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return [await self._queue.get(), *self.take()]
        return []
