"""HTML of the service: templates that escape, and headers that let the browser load and run nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType

from aiohttp import web
from jinja2 import Environment, PackageLoader

STYLE = "/style.css"
_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; "
        "base-uri 'none'",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
)


def _moment(seconds: float | None) -> str:
    """Unix time as people read it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if seconds is not None else ""


class Templates:
    """The pages by name."""

    def __init__(self) -> None:
        loader = PackageLoader("hub.service", "templates")
        self._environment = Environment(loader=loader, autoescape=True, auto_reload=False)
        self._environment.filters["moment"] = _moment

    def page(self, name: str, title: str, status: int = 200, **values: object) -> web.Response:
        """A page as a response."""
        text = self._environment.get_template(name).render(title=title, style=STYLE, **values)
        return web.Response(text=text, status=status, content_type="text/html", headers=_HEADERS)

    async def style(self, _request: web.Request) -> web.Response:
        """The style sheet."""
        source, _, _ = PackageLoader("hub.service", "templates").get_source(self._environment, "style.css")
        return web.Response(text=source, content_type="text/css", headers={"Cache-Control": "max-age=3600"})
