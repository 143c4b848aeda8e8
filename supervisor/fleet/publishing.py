"""Publishes what this member says of itself: its status and its acknowledgements, with a lease that ends with
the member. Values are written when they change; otherwise only the lease is renewed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from supervisor.fleet.lock_service import LockService, LockServiceAway

RENEWALS = 3  # of the lease in its time to live
RETRY_SECONDS = 0.5  # after a failed call; twice as long after each further one


class Publishing:
    """Keys and their values, level-triggered: `set` says what should stand there. `run` goes on for ever."""

    def __init__(self, service: LockService, away: Callable[[LockServiceAway | None], None]) -> None:
        """`away` is told why nothing can be published, and None when it can be again."""
        self._service, self._away = service, away
        self._wanted: Mapping[str, str] = {}
        self._written: dict[str, str] = {}  # with the present lease
        self._lease: str | None = None
        self._renew_at = 0.0  # loop time
        self._due = asyncio.Event()

    def set(self, values: Mapping[str, str]) -> None:
        """What should stand there, by key; keys that are missing here are removed. Returns at once."""
        if values != self._wanted:
            self._wanted = values
            self._due.set()

    async def run(self) -> None:
        """Write and renew."""
        pause = RETRY_SECONDS
        while True:
            self._due.clear()
            try:
                await self._round()
            except LockServiceAway as error:
                self._away(error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, self._service.ttl / RENEWALS)
                continue
            self._away(None)
            pause = RETRY_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._renew_at):
                    await self._due.wait()

    async def end(self) -> None:
        """Take everything back: the member ends in order."""
        lease, self._lease = self._lease, None
        if lease is not None:
            with contextlib.suppress(LockServiceAway):
                await self._service.revoke(lease)

    async def _round(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._lease is not None and now >= self._renew_at and not await self._service.renew(self._lease):
            self._lease = None
        if self._lease is None:
            self._lease, self._written = (await self._service.open_lease()).id, {}
        if now >= self._renew_at:
            self._renew_at = now + self._service.ttl / RENEWALS
        await self._write()

    async def _write(self) -> None:
        wanted = self._wanted
        for key in self._written.keys() - wanted.keys():
            await self._service.delete(key)
            del self._written[key]
        for key, value in wanted.items():
            if self._written.get(key) != value:
                await self._service.put(key, value, self._lease)
                self._written[key] = value
