"""The address of the HTTP server: while it cannot be listened on, the tunnels run without it, a condition
says so, and it is tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

import structlog

from supervisor.core.conditions import Condition
from supervisor.core.events import Event, Noticed

CONDITION = "http-not-listening"
RETRY_SECONDS = 5.0


class HttpAddress:
    """Opens it, and posts `Noticed` when its condition changes."""

    def __init__(self, post: Callable[[Event], None], retry_seconds: float = RETRY_SECONDS) -> None:
        self._post, self._retry_seconds = post, retry_seconds
        self._listen: Callable[[], Awaitable[None]] | None = None  # None: it is open
        self._address = ""
        self.conditions: Mapping[str, Condition] = MappingProxyType({})

    async def open(self, address: str, listen: Callable[[], Awaitable[None]]) -> None:
        """Call `listen` now, and again in `run` as long as it raises OSError. PermissionError: no right to
        the port.
        """
        self._address, self._listen = address, listen
        await self._try()

    async def run(self) -> None:
        """Until it is open."""
        while self._listen is not None:
            await asyncio.sleep(self._retry_seconds)
            await self._try()

    async def _try(self) -> None:
        if self._listen is None:
            return
        try:
            await self._listen()
        except PermissionError:
            raise
        except OSError as error:
            self._say(error)
        else:
            self._listen = None
            self._say(None)

    def _say(self, error: OSError | None) -> None:
        before, self.conditions = self.conditions, _conditions(self._address, error)
        if before == self.conditions:
            return
        log = structlog.get_logger()
        if error is None:
            log.info("listening", address=self._address)
        else:
            log.error("cannot listen; tried again, the tunnels run", address=self._address, error=str(error))
        self._post(Noticed(""))


def _conditions(address: str, error: OSError | None) -> Mapping[str, Condition]:
    if error is None:
        return {}
    text = (
        f"cannot listen on {address}, see http.listen ({error}): no metrics, no status page; tried again every "
        f"{RETRY_SECONDS:.0f} s"
    )
    port = address.rpartition(":")[2]
    return {CONDITION: Condition(text, look_further=f"ss -ltnp 'sport = :{port}'", clear_after=0.0)}
