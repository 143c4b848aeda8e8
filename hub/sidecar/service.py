"""The session service, as the sidecar sees it, and its HTTP API over mutual TLS."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import aiohttp
from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError

from hub.core import api, routes

_CONNECTIONS = 64
_MAX_ANSWER_BYTES = 4 << 20
_LOGIN_ANSWER: TypeAdapter[api.LoginAnswer] = TypeAdapter(api.LoginAnswer)
Answer = TypeVar("Answer")


class ServiceAway(Exception):
    """The service cannot be reached, or is not able to answer; the message says which."""


class ServiceRefused(Exception):
    """The service does not accept the request, and will not the next time."""


class ServiceLink(Protocol):
    """What the sidecar asks and tells. Every method: ServiceAway, ServiceRefused."""

    async def login(self, request: api.LoginRequest) -> api.LoginAnswer:
        """May this client come in, or go on?"""

    async def answer(self, answer: api.ChallengeAnswer) -> api.LoginAnswer:
        """Is this the right answer?"""

    async def up(self, up: api.SessionUp) -> None:
        """A client has its address."""

    async def ended(self, ends: api.SessionEnds) -> None:
        """Clients are gone."""

    async def heartbeat(self, beat: api.Heartbeat) -> api.HeartbeatAnswer:
        """These are here; what is to be done?"""


class ServiceFiles:
    """Our certificate, its key and the CA of the service, as they are in their files."""

    def __init__(self, certificate: Path, key: Path, ca: Path) -> None:
        self._certificate, self._key, self._ca = certificate, key, ca

    def stamp(self) -> tuple[int, ...]:
        """Differs after a file was replaced; empty while one is missing."""
        try:
            return tuple(path.stat().st_mtime_ns for path in (self._certificate, self._key, self._ca))
        except OSError:
            return ()

    def context(self) -> ssl.SSLContext:
        """For new connections. OSError, ssl.SSLError: the files cannot be used."""
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(self._ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._certificate, self._key)
        return context


class HttpServiceLink:
    """The service at this URL. Connections are kept; renewed certificates hold for the next one."""

    def __init__(self, url: str, files: ServiceFiles, timeout: float) -> None:
        self._url, self._files, self._timeout = url.rstrip("/"), files, timeout
        self._session: aiohttp.ClientSession | None = None
        self._stamp: tuple[int, ...] = ()

    async def login(self, request: api.LoginRequest) -> api.LoginAnswer:
        """Asked twice where a kept connection was closed: the service answers the same."""
        return _parsed(_LOGIN_ANSWER, await self._post(routes.LOGIN, request))

    async def answer(self, answer: api.ChallengeAnswer) -> api.LoginAnswer:
        """Asked once: a code works once."""
        return _parsed(_LOGIN_ANSWER, await self._post(routes.ANSWER, answer))

    async def up(self, up: api.SessionUp) -> None:
        """Idempotent."""
        await self._post(routes.UP, up)

    async def ended(self, ends: api.SessionEnds) -> None:
        """Idempotent."""
        await self._post(routes.ENDED, ends)

    async def heartbeat(self, beat: api.Heartbeat) -> api.HeartbeatAnswer:
        """The answer may be held back for as long as the heartbeat allows."""
        body = await self._post(routes.HEARTBEAT, beat, self._timeout + beat.wait)
        return _parsed(TypeAdapter(api.HeartbeatAnswer), body)

    async def close(self) -> None:
        """End all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _post(self, route: routes.ApiRoute, body: BaseModel, timeout: float | None = None) -> bytes:
        session = await self._current()
        limit = aiohttp.ClientTimeout(total=timeout or self._timeout)
        try:
            async with session.post(
                self._url + route.path, data=_written(body), headers=_JSON, timeout=limit
            ) as response:
                text = await response.content.read(_MAX_ANSWER_BYTES)
                if response.status < 400:
                    return text
                status = response.status
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise ServiceAway(f"{self._url}: {error or type(error).__name__}") from None
        if status >= 500 or status in (408, 429):
            raise ServiceAway(f"{self._url}: HTTP {status}")
        raise ServiceRefused(f"{self._url}: HTTP {status}: {_error(text)}")

    async def _current(self) -> aiohttp.ClientSession:
        stamp = self._files.stamp()
        if self._session is not None and stamp in ((), self._stamp):
            return self._session
        try:
            context = self._files.context()
        except (OSError, ssl.SSLError) as error:
            if self._session is not None:
                return self._session
            raise ServiceAway(f"the certificate for {self._url} cannot be used: {error}") from None
        await self.close()
        self._stamp = stamp
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=_CONNECTIONS), auto_decompress=False
        )
        return self._session


_JSON: Mapping[str, str] = {"Content-Type": "application/json"}


def _written(body: BaseModel) -> bytes:
    """JSON in which secrets are unencrypted: it goes over mutual TLS to the one who checks them."""
    return json.dumps(_plain(body.model_dump(mode="python", exclude_none=True))).encode()


def _plain(value: Any) -> Any:
    match value:
        case SecretStr():
            return value.get_secret_value()
        case dict():
            return {str(name): _plain(each) for name, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(each) for each in value]
        case bool() | int() | float() | str() | None:
            return value
    return str(value)


def _parsed(adapter: TypeAdapter[Answer], body: bytes) -> Answer:
    try:
        return adapter.validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise ServiceAway(f"the service's answer is not understood: {first['loc']}: {first['msg']}") from None


def _error(body: bytes) -> str:
    try:
        return api.ApiRefusal.model_validate_json(body).error[:200]
    except ValidationError:
        return "no reason given"
