"""The facilitators that follow the book of addresses, and how far each has read: a login waits for them a
moment, so that the first packet of a client already has a name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_FOLLOWS_SECONDS = 5.0  # a facilitator that has not asked for so long is not waited for
_WAIT_SECONDS = 0.05


class Followers:
    """By name of the certificate."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._asked: dict[str, tuple[int, float]] = {}  # revision that it has, and when it asked
        self._news = asyncio.Event()

    def asks(self, name: str, after: int) -> None:
        """It has everything up to this revision."""
        self._asked[name] = after, self._monotonic()
        self._news.set()
        self._news = asyncio.Event()

    async def have(self, revision: int) -> None:
        """Wait until all have that revision, for 50 ms at most."""
        end = self._monotonic() + _WAIT_SECONDS
        while self._behind(revision) and (left := end - self._monotonic()) > 0:
            news = self._news
            try:
                await asyncio.wait_for(news.wait(), left)
            except TimeoutError:
                return

    def _behind(self, revision: int) -> bool:
        now = self._monotonic()
        return any(
            after < revision and now - asked < _FOLLOWS_SECONDS for after, asked in self._asked.values()
        )
