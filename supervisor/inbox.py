"""The engine's inbox: everything that happens is posted here as an event, and there is no other way in."""

from __future__ import annotations

import asyncio
import contextlib

from supervisor.core.events import Event


class Inbox:
    """A queue of events. Only for the event loop's thread."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Event] = asyncio.Queue()

    def post(self, event: Event) -> None:
        """Add an event; returns at once."""
        self._queue.put_nowait(event)

    @property
    def empty(self) -> bool:
        """No event waits."""
        return self._queue.empty()

    def take(self) -> list[Event]:
        """Remove and return all events, in order."""
        return [self._queue.get_nowait() for _ in range(self._queue.qsize())]

    async def wait(self, seconds: float | None) -> list[Event]:
        """Remove and return all events as soon as there is one; none after this many seconds (None: wait for
        ever).
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return [await self._queue.get(), *self.take()]
        return []
