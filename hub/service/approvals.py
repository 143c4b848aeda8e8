"""Logins by notification: the message to the notifier. Its link is a secret, and stands in no log."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Callable

import aiohttp
import structlog

from hub.service.logins import Ask
from hub.service.views import client_text

_SEND_SECONDS = 10.0


class Notifier:
    """POSTs JSON to the configured address, signed: `X-Signature: sha256=HEX` is the HMAC of the body."""

    def __init__(self, webhook: Callable[[], str], key: Callable[[], str], link: str) -> None:
        """`webhook`, `key`: read the secrets; OSError or ValueError. `link`: what links begin with."""
        self._webhook, self._key, self._link = webhook, key, link
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger()

    def ask(self, ask: Ask) -> None:
        """Send in the background."""
        task = asyncio.get_running_loop().create_task(self._send(ask), name="notification")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what is being sent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _send(self, ask: Ask) -> None:
        session = ask.session
        document = {
            "person": session.person,
            "place": session.client_address,
            "device": client_text(session),
            "node": session.node,
            "expires": session.until,
            "link": f"{self._link}{ask.token}",
        }
        body = json.dumps(document).encode()
        try:
            signature = hmac.new(self._key().encode(), body, hashlib.sha256).hexdigest()
            headers = {"Content-Type": "application/json", "X-Signature": f"sha256={signature}"}
            timeout = aiohttp.ClientTimeout(total=_SEND_SECONDS)
            async with (
                aiohttp.ClientSession(timeout=timeout) as client,
                client.post(self._webhook(), data=body, headers=headers, allow_redirects=False) as response,
            ):
                outcome = f"status {response.status}" if response.status >= 300 else None
        except (OSError, ValueError, TimeoutError, aiohttp.ClientError) as error:
            outcome = type(error).__name__  # its text may hold the address, which is secret
        if outcome is None:
            self._log.info("notification sent", person=session.person, session=session.id)
        else:
            self._log.warning(
                "notification not sent", person=session.person, session=session.id, error=outcome
            )
