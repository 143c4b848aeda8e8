"""What the host and the operators' browsers see without a certificate: metrics, health, the page of sessions.

It listens on the loopback interface unless the configuration says otherwise: names of people are on the page.
"""

from __future__ import annotations

from aiohttp import web

from hub.service.database import Unavailable
from hub.service.metrics import HubMetrics
from hub.service.service import SessionService
from hub.service.templating import STYLE, Templates

_SHOWN = 500  # sessions on the page
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class LocalPages:
    """GET only."""

    def __init__(self, service: SessionService, metrics: HubMetrics) -> None:
        self._service, self._metrics, self._templates = service, metrics, Templates()

    def app(self) -> web.Application:
        """The application."""
        app = web.Application()
        app.router.add_get("/", self._status)
        app.router.add_get("/metrics", self._metrics_text)
        app.router.add_get("/healthz", self._healthy)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get(STYLE, self._templates.style)
        return app

    async def _status(self, _request: web.Request) -> web.Response:
        try:
            nodes = await self._service.nodes()
            sessions = await self._service.sessions(None, None, _SHOWN)
        except Unavailable as error:
            return self._templates.page(
                "done.html", "Staff sessions", 503, text=f"The database does not answer: {error}"
            )
        return self._templates.page(
            "status.html", "Staff sessions", time=nodes.time, nodes=nodes.nodes,
            sessions=sessions.sessions, more=len(sessions.sessions) == _SHOWN,
        )  # fmt: skip

    async def _metrics_text(self, _request: web.Request) -> web.Response:
        try:
            self._metrics.nodes(await self._service.nodes())
        except Unavailable:
            self._metrics.nodes(None)
        return web.Response(body=self._metrics.text(), headers={"Content-Type": _METRICS_TYPE})

    async def _healthy(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _ready(self, _request: web.Request) -> web.Response:
        """Ready is who can decide a login."""
        try:
            await self._service.nodes()
        except Unavailable as error:
            return web.Response(text=f"the database does not answer: {error}\n", status=503)
        return web.Response(text="ok\n")
