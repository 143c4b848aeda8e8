"""Middlewares and headers for every request and response of the HTTP server."""

from __future__ import annotations

from asyncio import BaseTransport
from collections.abc import Awaitable, Callable
from types import MappingProxyType

from aiohttp import web
from aiohttp.typedefs import Middleware

from common.listener import HTTPConnection

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# Why the client at the other end of a connection may not use the server; None: it may.
AccessCheck = Callable[[BaseTransport | None], str | None]

SECURITY_HEADERS = MappingProxyType(
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


async def add_security_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add the headers that the response does not set itself (aiohttp's signal `on_response_prepare`)."""
    for name, value in SECURITY_HEADERS.items():
        if name not in response.headers or name == "Server":
            response.headers[name] = value


def client_access(refusal: AccessCheck) -> Middleware:
    """Answer 403 to clients that `refusal` keeps out, and tell the listener while a request is in
    progress.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        transport = request.transport
        connection = transport.get_protocol() if transport is not None else None
        if not isinstance(connection, HTTPConnection):  # of the control socket
            return await handler(request)
        connection.request_started()
        try:
            reason = refusal(transport)
            if reason is not None:
                raise web.HTTPForbidden(text=reason)
            return await handler(request)
        finally:
            connection.request_finished()

    return middleware
