"""Logins by notification: the message to the notifier, and the page on which the person decides.

A link is a secret: it stands in no log, decides one login of one run of one OpenVPN server, and only by POST,
because mail scanners open links by GET.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable

import aiohttp
import structlog
from aiohttp import web

from hub.core.sessions import StaffSession
from hub.service.logins import Ask
from hub.service.service import SessionService
from hub.service.templating import STYLE, Templates
from hub.service.views import client_text

_SEND_SECONDS = 10.0
_MAX_FORM_BYTES = 4096
_GONE = "This link is not valid: it was used already, has expired, or the login has ended."
_TITLE = "Approve a VPN login"


class Notifier:
    """POSTs JSON to the configured address, signed: `X-Signature: sha256=HEX` is the HMAC of the body."""

    def __init__(self, webhook: Callable[[], str], key: Callable[[], str], base_url: str) -> None:
        """`webhook`, `key`: read the secrets; OSError or ValueError."""
        self._webhook, self._key, self._base = webhook, key, base_url
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
            "link": f"{self._base}/approve?token={ask.token}",
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


class ApprovalPages:
    """What the person's browser sees."""

    def __init__(self, service: SessionService) -> None:
        self._service, self._templates, self._log = service, Templates(), structlog.get_logger()

    def app(self) -> web.Application:
        """The application."""
        app = web.Application(client_max_size=_MAX_FORM_BYTES)
        app.router.add_get("/approve", self._show)
        app.router.add_post("/approve", self._decide)
        app.router.add_get(STYLE, self._templates.style)
        return app

    async def _show(self, request: web.Request) -> web.Response:
        token = request.query.get("token", "")
        found = await self._service.approval(token)
        if found is None:
            return self._done(_GONE, 404)
        number, session = found
        return self._templates.page(
            "approve.html", _TITLE, person=session.person, device=client_text(session) or "not told",
            place=session.client_address, node=session.node, token=token, numbers=_numbers(number),
        )  # fmt: skip

    async def _decide(self, request: web.Request) -> web.Response:
        form = await request.post()
        token, number = str(form.get("token", "")), str(form.get("number", ""))
        decided = await self._service.approve(token, number, number != "no")
        if decided is None:
            return self._done(_GONE, 404)
        self._log.info("approval", person=decided.person, session=decided.id, state=decided.state)
        return self._done(_said(decided))

    def _done(self, text: str, status: int = 200) -> web.Response:
        return self._templates.page("done.html", _TITLE, status, text=text)


def _said(session: StaffSession) -> str:
    return "The login is approved. You may close this page." if session.live else "The login was denied."


def _numbers(right: str) -> list[str]:
    """The number among others, in any order; none where the client could not show one."""
    if not right:
        return []
    numbers = {right}
    while len(numbers) < 4:
        numbers.add(str(secrets.randbelow(90) + 10))
    return sorted(numbers)
