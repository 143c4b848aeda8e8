"""The HTTP API of the daemon: read-only routes for TCP, and the control socket that may also change things.

Both speak the same JSON (`supervisor.core.views.documents`), described in docs/openapi.json. Handlers know
nothing but the `DaemonAPI` below.
"""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from aiohttp import web

from supervisor.control.middleware import AccessCheck, add_security_headers, client_access
from supervisor.control.page import content_security_policy, render_page
from supervisor.control.peer_credentials import (
    FAILURE,
    ClientGuard,
    only_operators_change,
    peer_of,
    refuse_own_clients,
)
from supervisor.control.server_sent_events import SharedResult, StatusPageStream, StreamLimits
from supervisor.core.diagnosis.query import PacketQuery, is_name, parse_query
from supervisor.core.fleet.orders import FleetOrder, new_order
from supervisor.core.views.audit_lines import ChangeRequest
from supervisor.core.views.documents import (
    AlertsDocument,
    AlertTestDocument,
    AuditDocument,
    FleetDocument,
    FleetOrderDocument,
    HandOverDocument,
    HistoryDocument,
    PlanDocument,
    QuestionDocument,
    ReloadDocument,
    StatusDocument,
    StatusPageDocument,
    TunnelStatus,
    UpgradeDocument,
    WhyDocument,
)

_VERBS = ("start", "stop", "restart")
_MAX_ROWS = 10_000  # of each kind, in one answer about the history
_MAX_WAIT_SECONDS = 120.0  # that one request may wait for a tunnel
_MAX_BODY_BYTES = 4096


class DaemonAPI(Protocol):
    """What the daemon offers to its HTTP API."""

    def status(self) -> StatusDocument:
        """All tunnels now."""

    async def status_page(self) -> StatusPageDocument:
        """The status, and beside it open incidents, and of each tunnel the last day, measurements and why
        its sessions ended.
        """

    async def status_page_changed(self) -> None:
        """Return as soon as `status_page` may give another answer."""

    def liveness_problem(self) -> str | None:
        """Why the daemon counts as stuck; None: it works."""

    def readiness_problem(self) -> str | None:
        """Why nothing new should come here; None: the configuration is loaded and nothing drains."""

    def ending(self) -> str | None:
        """Why the daemon takes no orders any more; None: it goes on."""

    def carrying_problem(self, destination: str) -> str | None:
        """Why new flows to a destination should go elsewhere; None: they are welcome. LookupError: there is
        no such destination.
        """

    def readiness_details(self) -> Sequence[str]:
        """Lines that change nothing about the readiness: what an operator should look at."""

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Body and content type for a scraper with this Accept header."""

    async def plan(self) -> PlanDocument:
        """What the kernel should hold, and how it differs."""

    async def why(self, question: PacketQuery) -> WhyDocument:
        """What would become of a packet now."""

    async def why_name(self, name: str, source: str | None, port: str | None) -> WhyDocument:
        """The same of a packet to the address of a name behind a tunnel. ValueError."""

    async def history(self, tunnel: str | None, limit: int) -> HistoryDocument:
        """Sessions, transitions, incidents and availability, of one tunnel or of all; at most `limit` rows
        of each.

        LookupError: nothing is known of such a tunnel.
        """

    def tail(self, tunnel: str, lines: int) -> list[str]:
        """The last lines of the tunnel's client, secrets masked."""

    def follow(self, tunnel: str) -> AsyncIterator[str]:
        """Every further line."""

    async def command(
        self, tunnel: str, verb: str, wait: float, drain: bool = False, force: bool = False
    ) -> TunnelStatus:
        """`start`, `stop` or `restart` a tunnel, and wait up to `wait` seconds for the outcome.

        `drain`: stop it when its flows are over; the outcome is then that they have been counted. `force`:
        restart it even if its files cannot be used. LookupError: the tunnel is gone meanwhile;
        PermissionError: a good session would end, and no new one could start.
        """

    def question(self, tunnel: str) -> str | None:
        """What the remote gateway asks a person now."""

    async def answer(self, tunnel: str, text: str, wait: float) -> TunnelStatus:
        """Answer that question, and wait up to `wait` seconds for the outcome.

        LookupError: nothing is asked, or the tunnel is gone meanwhile.
        """

    def alerts(self) -> AlertsDocument:
        """Open incidents at each receiver, messages that wait, and the last errors."""

    async def test_alerts(self, tunnel: str) -> AlertTestDocument:
        """Open and resolve a test incident at each receiver, through the routing key of this tunnel ("": the
        facilitator's).
        """

    async def drain(self, now: bool) -> StatusDocument:
        """End the daemon when all flows are over, or `now`."""

    async def reload(self) -> ReloadDocument:
        """Read the configuration again."""

    def audit(self, tunnel: str | None, source: str | None, limit: int) -> AuditDocument:
        """The largest totals of the audit, of one tunnel or source or of all. LookupError: no audit
        is kept.
        """

    def record_change(self, request: ChangeRequest) -> None:
        """Note that somebody asked for a change."""

    async def fleet(self) -> FleetDocument:
        """All members of the fleet. LookupError: this is no member of one."""

    async def fleet_order(self, order: FleetOrder, wait: float, lift: bool) -> FleetOrderDocument:
        """Give an order to all members, or `lift` it, and wait up to `wait` seconds until they have followed.

        LookupError: there is no such fleet, member, tunnel or order. OSError: the lock engine does not take
        it.
        """

    def hand_over(self, owner: str) -> HandOverDocument:
        """End without a drain: the one that asks adopts what runs. PermissionError: another owner."""

    async def upgrade(self) -> UpgradeDocument:
        """Re-execute the daemon with the installed program. Returns only when that failed."""

    def has_tunnel(self, tunnel: str) -> bool:
        """A tunnel of this name is configured."""


class HTTPApi:
    """The routes and handlers over a `DaemonAPI`."""

    def __init__(self, daemon: DaemonAPI, limits: StreamLimits | None = None) -> None:
        self._daemon = daemon
        self._stream = StatusPageStream(daemon, limits)
        self._rendered = SharedResult(self._render, (limits or StreamLimits()).pause_seconds)

    def public(self, refusal: AccessCheck = lambda _: None) -> web.Application:
        """What TCP serves: read-only, to clients whom `refusal` lets in."""
        app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[client_access(refusal)])
        app.on_response_prepare.append(add_security_headers)
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/api/v1/events", self._stream.serve, allow_head=False),
                web.get("/metrics", self._metrics),
                web.get("/healthz", self._healthz),
                web.get("/healthz/carries/{destination:.+}", self._carries),
                web.get("/readyz", self._readyz),
                web.get("/api/v1/status", self._status),
                web.get("/api/v1/fleet", self._fleet),
            ]
        )
        return app

    def control(self, guard: ClientGuard) -> web.Application:
        """What the control socket serves: everything; changes only for operators, nothing for the daemon's
        own VPN clients.
        """
        app = self.public()
        app.middlewares.extend((refuse_own_clients(guard), only_operators_change(self._daemon.record_change)))
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
                web.post("/api/v1/tunnels/{tunnel}/{verb}", self._command),
                web.post("/api/v1/reload", self._reload),
                web.post("/api/v1/upgrade", self._upgrade),
                web.post("/api/v1/hand-over", self._hand_over),
                web.post("/api/v1/drain", self._drain),
                web.post("/api/v1/fleet/orders/{kind}/{subject}", self._fleet_order),
            ]
        )
        return app

    async def _page(self, _: web.Request) -> web.Response:
        response = web.Response(
            text=await self._rendered.get(),
            content_type="text/html",
            headers={"Content-Security-Policy": content_security_policy()},
        )
        response.enable_compression()
        return response

    async def _render(self) -> str:
        return await asyncio.to_thread(render_page, await self._daemon.status_page())

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = await self._daemon.metrics(request.headers.get("Accept", ""))
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            # In a thread, because compressing megabytes would block the event loop.
            body, headers["Content-Encoding"] = await asyncio.to_thread(gzip.compress, body, 1), "gzip"
        return web.Response(body=body, headers=headers)

    async def _healthz(self, _: web.Request) -> web.Response:
        return _health(self._daemon.liveness_problem())

    async def _carries(self, request: web.Request) -> web.Response:
        try:
            return _health(self._daemon.carrying_problem(request.match_info["destination"]))
        except LookupError as unknown:
            raise web.HTTPNotFound(text=str(unknown)) from None

    async def _readyz(self, _: web.Request) -> web.Response:
        return _health(self._daemon.readiness_problem(), self._daemon.readiness_details())

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(self._daemon.status())

    async def _plan(self, _: web.Request) -> web.Response:
        return web.json_response(await self._daemon.plan())

    async def _why(self, request: web.Request) -> web.Response:
        query = request.query
        asked = (query.get("address", ""), query.get("from"), query.get("port"))
        try:
            if is_name(asked[0]):
                return web.json_response(await self._daemon.why_name(*asked))
            question = parse_query(*asked)
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

    async def _test_alerts(self, request: web.Request) -> web.Response:
        tunnel = request.query.get("tunnel", "")
        if tunnel and not self._daemon.has_tunnel(tunnel):
            raise web.HTTPNotFound(text=f"no such tunnel: {tunnel}")
        return web.json_response(await self._daemon.test_alerts(tunnel))

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        tunnel, count = self._tunnel(request), _number(request, "lines", 200)
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        await response.prepare(request)
        for line in self._daemon.tail(tunnel, count):
            await response.write(f"{line}\n".encode())
        if "follow" in request.query:
            async for line in self._daemon.follow(tunnel):
                await response.write(f"{line}\n".encode())
        return response

    async def _command(self, request: web.Request) -> web.Response:
        tunnel, verb = self._tunnel(request), request.match_info["verb"]
        if verb not in _VERBS:
            raise web.HTTPNotFound(text=f"no such command: {verb}")
        if verb != "stop":  # flows may be cut at any time
            self._refuse_when_ending()
        wait, drain = (
            min(_MAX_WAIT_SECONDS, _number(request, "wait", 0)),
            verb == "stop" and "drain" in request.query,
        )
        try:
            return web.json_response(
                await self._daemon.command(tunnel, verb, wait, drain, force="force" in request.query)
            )
        except LookupError as gone:
            raise web.HTTPNotFound(text=str(gone)) from None
        except PermissionError as refusal:
            raise web.HTTPConflict(text=str(refusal)) from None

    async def _question(self, request: web.Request) -> web.Response:
        document: QuestionDocument = {"text": self._daemon.question(self._tunnel(request))}
        return web.json_response(document)

    async def _answer(self, request: web.Request) -> web.Response:
        tunnel, text = self._tunnel(request), (await request.text()).rstrip("\r\n")
        if not text or set(text) & set("\r\n\0"):
            raise web.HTTPBadRequest(text="the answer is empty or has more than one line")
        try:
            return web.json_response(
                await self._daemon.answer(tunnel, text, min(_MAX_WAIT_SECONDS, _number(request, "wait", 0)))
            )
        except LookupError as problem:
            raise web.HTTPConflict(text=str(problem)) from None

    async def _reload(self, request: web.Request) -> web.Response:
        self._refuse_when_ending()
        done = await asyncio.shield(self._daemon.reload())
        if done["errors"]:
            request[FAILURE] = "; ".join(done["errors"])
        return web.json_response(done)

    async def _drain(self, request: web.Request) -> web.Response:
        return web.json_response(await self._daemon.drain("now" in request.query))

    async def _fleet(self, _: web.Request) -> web.Response:
        try:
            return web.json_response(await self._daemon.fleet())
        except LookupError as none:
            raise web.HTTPNotFound(text=str(none)) from None

    async def _fleet_order(self, request: web.Request) -> web.Response:
        wait, path, peer = _number(request, "wait", 0), request.match_info, peer_of(request.transport)
        by = "" if peer is None else peer.requester["user"] or str(peer.requester["uid"])
        try:
            order = new_order(path["kind"], path["subject"], by, request.query.get("why", ""), time.time())
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        try:
            done = await self._daemon.fleet_order(
                order, min(_MAX_WAIT_SECONDS, wait), lift="lift" in request.query
            )
        except LookupError as unknown:
            raise web.HTTPNotFound(text=str(unknown)) from None
        except OSError as error:
            raise web.HTTPBadGateway(text=str(error)) from None
        return web.json_response(done)

    async def _hand_over(self, request: web.Request) -> web.Response:
        try:
            return web.json_response(self._daemon.hand_over((await request.text()).strip()))
        except PermissionError as refusal:
            raise web.HTTPConflict(text=str(refusal)) from None

    async def _upgrade(self, request: web.Request) -> web.Response:
        """Answers only when it failed: otherwise the connection ends with the old program."""
        self._refuse_when_ending()
        done = await asyncio.shield(self._daemon.upgrade())
        request[FAILURE] = "; ".join(done["errors"])
        return web.json_response(done)

    def _refuse_when_ending(self) -> None:
        """A daemon that drains starts nothing new."""
        problem = self._daemon.ending()
        if problem is not None:
            raise web.HTTPServiceUnavailable(text=f"nothing is changed any more: {problem}")

    def _tunnel(self, request: web.Request) -> str:
        tunnel = request.match_info["tunnel"]
        if not self._daemon.has_tunnel(tunnel):
            raise web.HTTPNotFound(text=f"no such tunnel: {tunnel}")
        return tunnel


def _health(problem: str | None, details: Sequence[str] = ()) -> web.Response:
    text = "\n".join((problem or "ok", *details, ""))
    return web.Response(text=text, status=200 if problem is None else 503)


def _number(request: web.Request, name: str, default: int) -> int:
    try:
        return int(request.query.get(name, default))
    except ValueError:
        raise web.HTTPBadRequest(text=f"{name} must be a whole number") from None
