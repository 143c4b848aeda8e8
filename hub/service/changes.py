"""Wakes those who wait for news: long polls and heartbeats that are held back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable


class Changes:
    """Waiting by topic; used from the event loop only."""

    ALL = "*"  # every change

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}

    def tell(self, topics: Iterable[str]) -> None:
        """Wake everybody who waits for one of these."""
        for topic in (*topics, self.ALL):
            for each in self._waiting.pop(topic, ()):
                if not each.done():
                    each.set_result(None)

    def tell_all(self) -> None:
        """Wake everybody: another process has written."""
        self.tell(list(self._waiting))

    def begin(self, topic: str) -> asyncio.Future[None]:
        """Done at the next change. Taken before one looks, so that no change falls between."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(topic, set()).add(waiting)
        return waiting

    async def wait(self, begun: asyncio.Future[None], topic: str, seconds: float) -> None:
        """Until the change or the time is over."""
        try:
            await asyncio.wait((begun,), timeout=max(0.0, seconds))
        finally:
            self._waiting.get(topic, set()).discard(begun)
