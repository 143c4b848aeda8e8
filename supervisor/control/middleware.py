"""What holds for every request and every answer of the HTTP server, whatever it is about."""

from __future__ import annotations

from asyncio import BaseTransport
from collections.abc import Awaitable, Callable
from types import MappingProxyType

from aiohttp import web
from aiohttp.typedefs import Middleware

from supervisor.control.listener import HTTPConnection

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Refusal = Callable[
    [BaseTransport | None], str | None
]  # why the client at the other end may not enter; None: it may

HEADERS = MappingProxyType(
    {
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; "
        "form-action 'none'",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
        "Server": "facilitator",
    }
)


async def secure(request: web.Request, response: web.StreamResponse) -> None:
    """Give an answer the headers that it does not bring itself (aiohttp's signal `on_response_prepare`)."""
    for name, value in HEADERS.items():
        if name not in response.headers or name == "Server":
            response.headers[name] = value


def admission(refusal: Refusal) -> Middleware:
    """A middleware that lets in whom it may, and tells the door that the request is understood and when it
    is answered.
    """

    @web.middleware
    async def attend(request: web.Request, handler: Handler) -> web.StreamResponse:
        transport = request.transport
        guest = transport.get_protocol() if transport is not None else None
        if not isinstance(guest, HTTPConnection):
            return await handler(request)
        guest.began()
        try:
            why = refusal(transport)
            if why is not None:
                raise web.HTTPForbidden(text=why)
            return await handler(request)
        finally:
            guest.ended()

    return attend
