"""The pages to which links lead: a person approves a login, or proves who it is at the identity provider.

A link is a secret: it stands in no log, decides one login of one run of one OpenVPN server, and only by POST,
because mail scanners open links by GET. Who comes with a link that is not theirs changes nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import Protocol

import structlog
from aiohttp import web

from hub.core.identity import Attempt, Identity, IdentityFailed, browser_address
from hub.core.sessions import StaffSession
from hub.service.logins import Logins, NotTheirs, ProvedIdentity
from hub.service.service import SessionService
from hub.service.templating import STYLE, Templates
from hub.service.views import client_text

CALLBACK = "/oidc"  # path of the redirect URI that the identity provider has to know
_MAX_FORM_BYTES = 4096
_ATTEMPT_SECONDS = 180.0
_GONE = "This link is not valid: it was used already, has expired, or the login has ended."
_ELSEWHERE = (
    "This link was opened from another network than that of the VPN client. Open it on the computer that connects, "
    "without another VPN or proxy."
)
_NOT_PROVED = "You could not be identified. Nothing was changed: the login still waits. Start again from the VPN client."
_OTHER = "This link is for another person. Nothing was changed."
_BUSY = "Too many logins with this link at a time. Wait a minute."
_TITLE = "Approve a VPN login"


class Provider(Protocol):
    """An identity provider."""

    issuer: str

    async def link(self, attempt: Attempt) -> str:
        """Where the browser logs in. IdentityFailed."""

    async def identity(self, attempt: Attempt, code: str) -> Identity:
        """Who has logged in. IdentityFailed."""


class LoginPages:
    """What the person's browser sees."""

    def __init__(
        self,
        service: SessionService,
        provider: Provider | None,
        secure: bool,
        proxies: Iterable[IPv4Network | IPv6Network] = (),
    ) -> None:
        """`secure`: browsers come by HTTPS."""
        self._service, self._provider, self._secure = service, provider, secure
        self._proxies = tuple(proxies)
        self._cookie = "__Host-facilitator-hub" if secure else "facilitator-hub"
        self._templates, self._log = Templates(), structlog.get_logger()

    def app(self) -> web.Application:
        """The application."""
        app = web.Application(client_max_size=_MAX_FORM_BYTES)
        app.router.add_get("/approve", self._show)
        app.router.add_post("/approve", self._decide)
        app.router.add_get(STYLE, self._templates.style)
        if self._provider is not None:
            app.router.add_get(CALLBACK, self._back)
        return app

    async def _show(self, request: web.Request) -> web.Response:
        token = request.query.get("token", "")
        found = await self._service.approval(token)
        if found is None:
            return self._done(_GONE, 404)
        number, session = found
        if not self._fits(session, request):
            return self._failed("opened from another address than the VPN client's", _ELSEWHERE, 403, session)
        return self._templates.page(
            "approve.html", _TITLE, person=session.person, device=client_text(session) or "unknown",
            place=session.client_address, node=session.node, token=token, numbers=_numbers(number),
            identified=self._provider is not None,
        )  # fmt: skip

    async def _decide(self, request: web.Request) -> web.Response:
        form = await request.post()
        token, number = str(form.get("token", "")), str(form.get("number", ""))
        if self._provider is not None:
            return await self._send_away(self._provider, request, token, number)
        try:
            decided = await self._service.approve(token, number)
        except NotTheirs:
            return self._done(_OTHER, 403)
        return self._decided(decided)

    async def _send_away(
        self, provider: Provider, request: web.Request, token: str, number: str
    ) -> web.Response:
        """To the identity provider, from where the browser comes back to us."""
        found = await self._service.approval(token)
        if found is None:
            return self._done(_GONE, 404)
        if not self._fits(found[1], request):
            return self._failed(
                "opened from another address than the VPN client's", _ELSEWHERE, 403, found[1]
            )
        attempt = Attempt(secrets.token_urlsafe(32), secrets.token_urlsafe(32))
        try:
            link = await provider.link(attempt)
        except IdentityFailed as error:
            return self._failed(str(error), _NOT_PROVED, 502, found[1])
        if not await self._service.begin_proof(token, number, attempt, _ATTEMPT_SECONDS):
            return self._done(_BUSY, 429)
        response = self._templates.page("continue.html", _TITLE, link=link)
        response.headers["Refresh"] = f"0; url={link}"
        response.set_cookie(
            self._cookie, attempt.browser, max_age=int(_ATTEMPT_SECONDS), httponly=True, secure=self._secure,
            samesite="Lax", path="/",
        )  # fmt: skip
        return response

    async def _back(self, request: web.Request) -> web.Response:
        """The identity provider has sent the browser back."""
        assert self._provider is not None
        query = request.query
        attempt = Attempt(query.get("state", ""), request.cookies.get(self._cookie, ""))
        begun = await self._service.end_proof(attempt)
        if begun is None:
            return self._failed("no login of this browser is open for this state", _NOT_PROVED, 403)
        try:
            if "error" in query or query.get("iss", self._provider.issuer) != self._provider.issuer:
                raise IdentityFailed("the identity provider has refused")
            identity = await self._provider.identity(attempt, query.get("code", ""))
            decided = await self._service.proved(*begun, ProvedIdentity(identity, self._address(request)))
        except IdentityFailed as error:
            return self._failed(str(error), _NOT_PROVED, 403)
        except NotTheirs as error:
            return self._failed(str(error), _OTHER, 403)
        return self._decided(decided)

    def _address(self, request: web.Request) -> str:
        forwarded = ",".join(request.headers.getall("X-Forwarded-For", []))
        return browser_address(request.remote or "", forwarded, self._proxies)

    def _fits(self, session: StaffSession, request: web.Request) -> bool:
        return Logins(self._service.rules).fits(session, self._address(request))

    def _decided(self, session: StaffSession | None) -> web.Response:
        if session is None:
            return self._done(_GONE, 404)
        self._log.info("approval", person=session.person, session=session.id, state=session.state)
        return self._done(_said(session))

    def _failed(
        self, reason: str, text: str, status: int, session: StaffSession | None = None
    ) -> web.Response:
        """The log has the reason, under an id that the page shows."""
        error_id = secrets.token_hex(4)
        who = {"person": session.person, "session": session.id} if session is not None else {}
        self._log.warning("login page refused", error_id=error_id, reason=reason, **who)
        return self._done(f"{text} (Error id {error_id})", status)

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
