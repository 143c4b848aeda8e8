"""Asks Pritunl's API (Enterprise) who is connected, and what its profiles route. Nothing is ever written.

Its token can do nearly everything there: it belongs into a file that only the daemon reads.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any

from supervisor.core.identity.book import BookReading
from supervisor.core.identity.pritunl import holdings, identifiers, read_items, signed, staff_routes
from supervisor.core.identity.staff_routes import StaffRoute
from supervisor.http_connections import EndpointAway, HttpConnections, HttpRequest
from supervisor.identity.source import Accepted, IdentityAway

_ANSWER_SECONDS = 10.0
_MAX_ORGANIZATIONS, _MAX_SERVERS = 100, 200
_ROUTES_EVERY_SECONDS = 300.0


class PritunlSource:
    """One Pritunl."""

    relied = 0.0

    def __init__(
        self,
        url: str,
        tls: Callable[[], ssl.SSLContext],
        login: Callable[[], tuple[str, str]],
        interval: float,
        accepted: Accepted,
    ) -> None:
        """`login`: token and secret, read for each question; OSError, ValueError."""
        self._http = HttpConnections([url.rstrip("/")], tls, _ANSWER_SECONDS)
        self._login, self._interval, self._accepted = login, interval, accepted
        self._routes_at = float("-inf")
        self.routes: tuple[StaffRoute, ...] = ()

    async def read(self, after: int, wait: float) -> BookReading:
        """See `IdentitySource`."""
        await asyncio.sleep(min(wait, self._interval))
        began = time.time()
        if time.monotonic() - self._routes_at >= _ROUTES_EVERY_SECONDS:
            self.routes = await self._all_routes()
            self._routes_at = time.monotonic()
        organizations = identifiers((await self._ask("/organization"))[:_MAX_ORGANIZATIONS])
        users = {each: await self._ask(f"/user/{each}") for each in organizations}
        return BookReading(0, True, True, holdings(users, organizations, self._accepted), began)

    async def close(self) -> None:
        """See `IdentitySource`."""
        await self._http.close()

    async def _all_routes(self) -> tuple[StaffRoute, ...]:
        servers = identifiers((await self._ask("/server"))[:_MAX_SERVERS])
        found = {name: await self._ask(f"/server/{each}/route") for each, name in servers.items()}
        return tuple(route for name, items in found.items() for route in staff_routes(name, items))

    async def _ask(self, path: str) -> list[Mapping[str, Any]]:
        try:
            token, secret = self._login()
            headers = signed(token, secret, int(time.time()), secrets.token_hex(16), "GET", path)
            answer = await self._http.ask(HttpRequest("GET", path, headers=headers))
        except (OSError, ValueError, EndpointAway) as error:
            raise IdentityAway(f"Pritunl does not answer: {error!s:.200}") from error
        if answer.status != 200:
            hint = "; check token, secret, clock and the subscription" if answer.status == 401 else ""
            raise IdentityAway(f"Pritunl answers {path} with status {answer.status}{hint}")
        try:
            return await asyncio.to_thread(read_items, answer.body)
        except ValueError as error:
            raise IdentityAway(
                f"the answer of Pritunl to {path} is not understood: {error!s:.200}"
            ) from error
