"""Serves applications on TCP, with or without TLS, within the limits of `common.listener`."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from aiohttp import web

from common.configuration.notation import Listen
from common.listener import Listener, Timeouts

_SHUTDOWN_SECONDS = 0.5
_KEEPALIVE_SECONDS = 75.0
_CONNECTIONS = 2048


class HubServers:
    """The listening sockets of the service."""

    def __init__(self) -> None:
        self._runners: list[web.AppRunner] = []
        self._listeners: list[Listener] = []

    async def listen(self, app: web.Application, where: Listen, tls: ssl.SSLContext | None = None) -> int:
        """Listen and answer from now on; the port. OSError when the address cannot be bound."""
        runner = web.AppRunner(
            app, access_log=None, handle_signals=False, handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN_SECONDS, keepalive_timeout=_KEEPALIVE_SECONDS,
        )  # fmt: skip
        await runner.setup()
        self._runners.append(runner)
        server = runner.server
        assert server is not None
        make: Callable[[], asyncio.Protocol] = server
        listener = Listener(make, tls, Timeouts(connections=_CONNECTIONS))
        await listener.open(where.host, where.port)
        self._listeners.append(listener)
        listener.start_accepting()
        return listener.addresses[0][1]

    async def close(self) -> None:
        """Close the sockets; requests in progress get half a second."""
        for listener in self._listeners:
            listener.stop_accepting()
        for runner in self._runners:
            await runner.cleanup()
        for listener in self._listeners:
            await listener.close()
