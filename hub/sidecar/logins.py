"""Asks the session service about logins, and waits for a service that is away, for some seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from pydantic import SecretStr, ValidationError

from hub.core import api
from hub.core.sidecar.answers import login_request
from hub.core.sidecar.clients import AskAnswer, AskLogin
from hub.sidecar.service import ServiceAway, ServiceLink, ServiceRefused

_RETRY_SECONDS = 0.5
_RENEWAL_SECONDS = 1.0


class LoginAsker:
    """Numbers the logins, and knows which of them have no answer yet."""

    def __init__(self, node: str, service: ServiceLink, patience: float) -> None:
        self._node, self._service, self._patience = node, service, patience
        self._last = 0
        self._open: set[int] = set()

    @property
    def sequence(self) -> int:
        """Every login up to this number was answered: the list of a heartbeat is complete up to it."""
        return min(self._open) - 1 if self._open else self._last

    async def login(self, run: str, question: AskLogin) -> api.LoginAnswer | None:
        """The service's answer; None: it has none, and the client is to be refused."""
        number = self._last = max(self._last + 1, time.time_ns())
        self._open.add(number)
        try:
            request = login_request(
                self._node, run, number, question.cid, question.kid, question.facts, question.session
            )
            if question.session:
                return await self._at_once(request)
            return await self._patiently(lambda: self._service.login(request))
        except ValidationError:  # what the client sent cannot be asked about
            return None
        finally:
            self._open.discard(number)

    async def answer(self, run: str, question: AskAnswer) -> api.LoginAnswer | None:
        """Of a person who typed something. Not asked again: a code works once."""
        try:
            typed = api.ChallengeAnswer(
                node=self._node,
                boot=run,
                session=question.session,
                key_id=question.kid,
                response=SecretStr(question.response),
            )
            return await self._service.answer(typed)
        except (ValidationError, ServiceAway, ServiceRefused):
            return None

    async def _at_once(self, request: api.LoginRequest) -> api.LoginAnswer | None:
        """Of a client that renews its keys: its traffic stands still until the answer."""
        try:
            async with asyncio.timeout(_RENEWAL_SECONDS):
                return await self._service.login(request)
        except (ServiceAway, ServiceRefused, TimeoutError):
            return None

    async def _patiently(self, ask: Callable[[], Awaitable[api.LoginAnswer]]) -> api.LoginAnswer | None:
        """A service that is restarted is worth waiting for: a refused client takes longer to come back."""
        until = time.monotonic() + self._patience
        while True:
            try:
                return await ask()
            except ServiceRefused:
                return None
            except ServiceAway:
                if time.monotonic() + _RETRY_SECONDS > until:
                    return None
                await asyncio.sleep(_RETRY_SECONDS)
