"""Follows the session service of `facilitator-hub`: a long poll over mutual TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import partial

from supervisor.core.identity.book import BookReading
from supervisor.core.identity.session_service import read_book
from supervisor.core.identity.staff_routes import StaffRoute
from supervisor.http_connections import EndpointAway, HttpConnections, HttpRequest
from supervisor.identity.source import Accepted, IdentityAway

WAIT_SECONDS = 20.0  # for which the service holds its answer back while nothing changes
_ANSWER_SECONDS = 10.0  # for everything else
_LARGE_BYTES = 256 << 10  # answers above are read in a thread
_RELIED_SECONDS = 60.0  # the service lets an address rest for longer (addresses.quarantine, 10 min)


class SessionBookSource:
    """One service."""

    relied = _RELIED_SECONDS
    routes: tuple[StaffRoute, ...] = ()

    def __init__(self, url: str, tls: Callable[[], ssl.SSLContext], accepted: Accepted) -> None:
        """`tls` is called for each new connection; it may raise OSError or ValueError."""
        self._http = HttpConnections([url.rstrip("/")], tls, WAIT_SECONDS + _ANSWER_SECONDS)
        self._accepted = accepted

    async def read(self, after: int, wait: float) -> BookReading:
        """See `IdentitySource`."""
        path = f"/api/v1/addresses?after={after}&wait={min(wait, WAIT_SECONDS):g}"
        try:
            answer = await self._http.ask(HttpRequest("GET", path))
        except EndpointAway as error:
            raise IdentityAway(f"the session service does not answer: {error}") from error
        if answer.status != 200:
            hint = "; see sessions.tls.roles of the service" if answer.status == 403 else ""
            raise IdentityAway(
                f"the session service answers with status {answer.status}: {answer.text}{hint}"
            )
        work = partial(read_book, answer.body, self._accepted)
        try:
            return await asyncio.to_thread(work) if len(answer.body) > _LARGE_BYTES else work()
        except ValueError as error:
            raise IdentityAway(
                f"the answer of the session service is not understood: {error!s:.200}"
            ) from error

    async def close(self) -> None:
        """See `IdentitySource`."""
        await self._http.close()
