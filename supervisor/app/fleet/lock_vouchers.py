"""While the lock engine is away, the members themselves say which locks they hold (`without_lock: keep`)."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Mapping
from typing import Any

from supervisor.fleet.lock_service import LockServiceAway, beside_the_loop
from supervisor.fleet.member_api import asked_status


class LockVouchers:
    """The HTTP servers of the other members, by name; None: the configuration names none."""

    def __init__(
        self, urls: Mapping[str, str | None], tls: Callable[[], ssl.SSLContext | None], seconds: float
    ) -> None:
        """`seconds`: for the answer of one."""
        self._urls, self._tls, self._seconds = urls, tls, seconds

    async def vouch(self, account: str) -> bool:
        """Every one has answered that it does not hold the lock of this account, and that the engine does not
        answer it either: so it cannot get the lock. Without others to ask nobody vouches.
        """
        answers = await asyncio.gather(*(self._free(url, account) for url in self._urls.values()))
        return bool(answers) and all(answers)

    async def _free(self, url: str | None, account: str) -> bool:
        if url is None:
            return False
        try:
            body = await asked_status(url, self._tls, self._seconds)
            return await beside_the_loop(body, lambda: _cannot_have(json.loads(body), account))
        except (LockServiceAway, ValueError, KeyError, TypeError, RecursionError):
            return False


def _cannot_have(status: Mapping[str, Any], account: str) -> bool:
    """The member of this status neither holds the lock nor can get it. KeyError, TypeError: this is no status
    of a facilitator that knows of locks.
    """
    locks = [each["lock"] for each in status["tunnels"] if each["lock"] is not None]
    ours = [each for each in locks if each["account"] == account]
    return bool(ours) and not any(each["held"] or each["engine"] for each in ours)
