"""The HTTP face of the daemon: one set of read-only routes for TCP, and the control socket that may also
change things.

Both speak the same JSON. Handlers know nothing but the `DaemonAPI` below; what they are asked to change goes
to the inbox through it.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from aiohttp import web

from supervisor.control.middleware import Refusal, admission, secure
from supervisor.control.page import page, policy
from supervisor.control.peer_credentials import FAILED, ClientGuard, authorised, outsiders
from supervisor.control.server_sent_events import Feed, Shared, StreamLimits
from supervisor.core.diagnosis.query import PacketQuery, parse_question

_VERBS = ("start", "stop", "restart")
_MAX_ROWS = 10_000  # of each kind, in one answer about the history
_MAX_WAIT = 120.0  # seconds that one request may wait for a tunnel


class DaemonAPI(Protocol):
    """What the daemon offers to its callers."""

    def status(self) -> dict[str, Any]:
        """The status document."""

    async def board(self) -> dict[str, Any]:
        """What the status page shows: the status, and beside it incidents, the last day, measures and
        deaths.
        """

    async def changed(self) -> None:
        """Return as soon as the board may look different."""

    def alive(self) -> str | None:
        """None while the loop works; else what is wrong."""

    def ready(self) -> str | None:
        """None while the configuration is loaded and nothing drains; else why not."""

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Body and content type for a scraper that accepts `accept`."""

    async def plan(self) -> dict[str, Any]:
        """`wanted` and `changes`: lines of text; `lanes`: tunnels by number."""

    async def why(self, question: PacketQuery) -> dict[str, Any]:
        """What would become of a packet now, step by step."""

    async def history(self, tunnel: str | None, limit: int) -> dict[str, Any]:
        """Sessions, transitions, incidents and availability, of one tunnel or of all; at most `limit` rows
        of each.

        LookupError: nothing is known of such a tunnel.
        """

    def tail(self, tunnel: str, lines: int) -> list[str]:
        """The last lines of the tunnel's client, secrets masked."""

    def follow(self, tunnel: str) -> AsyncIterator[str]:
        """Every further line."""

    async def ask(self, tunnel: str, verb: str, wait: float, drain: bool = False) -> dict[str, Any]:
        """`start`, `stop` or `restart` a tunnel and wait up to `wait` seconds for what comes of it: its
        entry of the status.

        `drain`: stop it when its flows are over; what comes of that at first is how many there are.
        LookupError: the tunnel is gone meanwhile.
        """

    def question(self, tunnel: str) -> str | None:
        """What its far side wants to know from a person now."""

    async def answer(self, tunnel: str, text: str, wait: float) -> dict[str, Any]:
        """Answer it and wait up to `wait` seconds for what comes of it: the tunnel's entry of the status.

        LookupError: nothing is asked, or the tunnel is gone meanwhile.
        """

    def alerts(self) -> dict[str, Any]:
        """Open incidents at each receiver, what waits to be sent, and what went wrong last."""

    async def test_alerts(self) -> dict[str, Any]:
        """Open and resolve an incident at each receiver: what it answered."""

    async def drain(self, now: bool) -> dict[str, Any]:
        """End when nothing is under way any more, or `now`: the status as it is then."""

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again: `done` lines, or `errors`."""

    def audit(self, tunnel: str | None, source: str | None, limit: int) -> dict[str, Any]:
        """Whether the audit is kept, and the largest totals, of one tunnel or source or of all.
        LookupError: there is no audit.
        """

    def acted(self, act: Mapping[str, Any]) -> None:
        """Somebody asked for a change: `action`, `tunnel`, `by`, `result` and `why`."""

    async def upgrade(self) -> dict[str, Any]:
        """Become the program as it is installed now. Returns only when that did not succeed: `errors`."""

    def known(self, tunnel: str) -> bool:
        """Is there such a tunnel."""


class Api:
    """Handlers over a daemon."""

    def __init__(self, daemon: DaemonAPI, limits: StreamLimits | None = None) -> None:
        self._daemon = daemon
        self._feed = Feed(daemon, limits)
        self._drawn = Shared(self._draw, (limits or StreamLimits()).pause)

    def public(self, refusal: Refusal = lambda _: None) -> web.Application:
        """What TCP serves: read-only, to those whom `refusal` lets in."""
        app = web.Application(client_max_size=4096, middlewares=[admission(refusal)])
        app.on_response_prepare.append(secure)
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/api/v1/events", self._feed.serve, allow_head=False),
                web.get("/metrics", self._metrics),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/api/v1/status", self._status),
            ]
        )
        return app

    def control(self, gate: ClientGuard) -> web.Application:
        """What the control socket serves: everything, changes only to those who may, and nothing to those
        whom the `gate` refuses.
        """
        app = self.public()
        app.middlewares.extend((outsiders(gate), authorised(self._daemon.acted)))
        app.add_routes(
            [
                web.get("/api/v1/plan", self._plan),
                web.get("/api/v1/why", self._why),
                web.get("/api/v1/history", self._history),
                web.get("/api/v1/audit", self._audit),
                web.get("/api/v1/alerts", self._alerts),
                web.post("/api/v1/alerts/test", self._test_alerts),
                web.get("/api/v1/tunnels/{tunnel}/logs", self._logs),
                web.get("/api/v1/tunnels/{tunnel}/question", self._question),
                web.post("/api/v1/tunnels/{tunnel}/answer", self._answer),
                web.post("/api/v1/tunnels/{tunnel}/{verb}", self._ask),
                web.post("/api/v1/reload", self._reload),
                web.post("/api/v1/upgrade", self._upgrade),
                web.post("/api/v1/drain", self._drain),
            ]
        )
        return app

    async def _page(self, _: web.Request) -> web.Response:
        response = web.Response(
            text=await self._drawn.get(),
            content_type="text/html",
            headers={"Content-Security-Policy": policy()},
        )
        response.enable_compression()
        return response

    async def _draw(self) -> str:
        return await asyncio.to_thread(page, await self._daemon.board())

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = await self._daemon.metrics(request.headers.get("Accept", ""))
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if "gzip" in request.headers.get(
            "Accept-Encoding", ""
        ):  # in a thread: megabytes of text would hold up the loop
            body, headers["Content-Encoding"] = await asyncio.to_thread(gzip.compress, body, 1), "gzip"
        return web.Response(body=body, headers=headers)

    async def _healthz(self, _: web.Request) -> web.Response:
        return _verdict(self._daemon.alive())

    async def _readyz(self, _: web.Request) -> web.Response:
        return _verdict(self._daemon.ready())

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(self._daemon.status())

    async def _plan(self, _: web.Request) -> web.Response:
        return web.json_response(await self._daemon.plan())

    async def _why(self, request: web.Request) -> web.Response:
        query = request.query
        try:
            question = parse_question(query.get("address", ""), query.get("from"), query.get("port"))
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        return web.json_response(await self._daemon.why(question))

    async def _history(self, request: web.Request) -> web.Response:
        limit = max(0, min(_MAX_ROWS, _number(request, "limit", 50)))
        try:
            return web.json_response(await self._daemon.history(request.query.get("tunnel"), limit))
        except LookupError as unknown:
            raise web.HTTPNotFound(text=str(unknown)) from None

    async def _audit(self, request: web.Request) -> web.Response:
        limit, query = max(0, min(_MAX_ROWS, _number(request, "limit", 20))), request.query
        try:
            return web.json_response(self._daemon.audit(query.get("tunnel"), query.get("source"), limit))
        except LookupError as none:
            raise web.HTTPNotFound(text=str(none)) from None

    async def _alerts(self, _: web.Request) -> web.Response:
        return web.json_response(self._daemon.alerts())

    async def _test_alerts(self, _: web.Request) -> web.Response:
        return web.json_response(await self._daemon.test_alerts())

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        tunnel = self._tunnel(request)
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        await response.prepare(request)
        for line in self._daemon.tail(tunnel, _number(request, "lines", 200)):
            await response.write(f"{line}\n".encode())
        if "follow" in request.query:
            async for line in self._daemon.follow(tunnel):
                await response.write(f"{line}\n".encode())
        return response

    async def _ask(self, request: web.Request) -> web.Response:
        tunnel, verb = self._tunnel(request), request.match_info["verb"]
        if verb not in _VERBS:
            raise web.HTTPNotFound(text=f"no such command: {verb}")
        if verb != "stop":  # what is under way in a tunnel may always be cut
            self._refuse_when_ending()
        wait, drain = min(_MAX_WAIT, _number(request, "wait", 0)), verb == "stop" and "drain" in request.query
        try:
            return web.json_response(await self._daemon.ask(tunnel, verb, wait, drain))
        except LookupError as gone:
            raise web.HTTPNotFound(text=str(gone)) from None

    async def _question(self, request: web.Request) -> web.Response:
        return web.json_response({"text": self._daemon.question(self._tunnel(request))})

    async def _answer(self, request: web.Request) -> web.Response:
        tunnel, text = self._tunnel(request), (await request.text()).rstrip("\r\n")
        if not text or set(text) & set("\r\n\0"):
            raise web.HTTPBadRequest(text="the answer is empty or has more than one line")
        try:
            return web.json_response(
                await self._daemon.answer(tunnel, text, min(_MAX_WAIT, _number(request, "wait", 0)))
            )
        except LookupError as problem:
            raise web.HTTPConflict(text=str(problem)) from None

    async def _reload(self, request: web.Request) -> web.Response:
        self._refuse_when_ending()
        done = await asyncio.shield(self._daemon.reload())
        if done["errors"]:
            request[FAILED] = "; ".join(done["errors"])
        return web.json_response(done)

    async def _drain(self, request: web.Request) -> web.Response:
        return web.json_response(await self._daemon.drain("now" in request.query))

    async def _upgrade(self, request: web.Request) -> web.Response:
        """There is an answer only when it did not succeed: else the connection ends with the old program."""
        self._refuse_when_ending()
        done = await asyncio.shield(self._daemon.upgrade())
        request[FAILED] = "; ".join(done["errors"])
        return web.json_response(done)

    def _refuse_when_ending(self) -> None:
        """A daemon that is about to end begins nothing new."""
        problem = self._daemon.ready()
        if problem is not None:
            raise web.HTTPServiceUnavailable(text=f"nothing is changed any more: {problem}")

    def _tunnel(self, request: web.Request) -> str:
        tunnel = request.match_info["tunnel"]
        if not self._daemon.known(tunnel):
            raise web.HTTPNotFound(text=f"no such tunnel: {tunnel}")
        return tunnel


def _verdict(problem: str | None) -> web.Response:
    return web.Response(text=f"{problem or 'ok'}\n", status=200 if problem is None else 503)


def _number(request: web.Request, name: str, default: int) -> int:
    try:
        return int(request.query.get(name, default))
    except ValueError:
        raise web.HTTPBadRequest(text=f"{name} must be a whole number") from None
