"""Follows the values below a prefix of the lock engine: reads them after each hint of a watch, and every so
often as well, because a hint may be missing.

    watch --hint--+
    timer --------+--> list -> changed(values)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from supervisor.fleet.lock_service import LockService, LockServiceAway
from supervisor.fleet.places import below

WATCH_AGAIN_SECONDS = 0.5  # after a watch has ended; twice as long after each that gave no hint
LONGEST_PAUSE_SECONDS = 2.0


async def watched(
    service: LockService, prefix: str, hint: Callable[[], None], longest: float = LONGEST_PAUSE_SECONDS
) -> None:
    """Call `hint` once a watch of this prefix stands, and after each change below it, for ever. `longest`:
    seconds between two attempts to watch.
    """
    pause = WATCH_AGAIN_SECONDS
    while True:
        with contextlib.suppress(LockServiceAway):
            async for _ in service.watch(prefix):
                hint()
                pause = WATCH_AGAIN_SECONDS
        await asyncio.sleep(pause)
        pause = min(2 * pause, longest)


class Following:
    """One prefix. `run` goes on for ever."""

    def __init__(
        self,
        service: LockService,
        prefix: str,
        every: float,
        changed: Callable[[Mapping[str, str]], None],
        away: Callable[[LockServiceAway], None] = lambda error: None,
    ) -> None:
        """`every`: seconds between two readings at most. `changed` is given the values that were read, by the
        rest of their keys; `away` why they could not be.
        """
        self._service, self._prefix, self._every = service, prefix, every
        self._changed, self._away = changed, away
        self._hint = asyncio.Event()

    async def run(self) -> None:
        """Read again and again."""
        longest = max(self._every, WATCH_AGAIN_SECONDS)
        watching = asyncio.create_task(watched(self._service, self._prefix, self._hint.set, longest))
        try:
            while True:
                self._hint.clear()
                await self._read()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._every):
                        await self._hint.wait()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _read(self) -> None:
        try:
            found = await self._service.list(self._prefix)
        except LockServiceAway as error:
            self._away(error)
        else:
            self._changed(below(self._prefix, found))
