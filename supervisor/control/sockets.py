"""The servers of the HTTP API: the control socket, and TCP with limits (`common.listener`).

listen_unix, listen_tcp: bind; connections wait in the backlog
-> serve: they are answered
"""

from __future__ import annotations

import asyncio
import grp
import os
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from common.listener import Listener, Timeouts
from supervisor import disk

if TYPE_CHECKING:
    from aiohttp import web  # slow to import: not before the clients are adopted

GROUP = "facilitator"  # its members may use the control socket
_KEEPALIVE_SECONDS = 75.0  # for which a connection is kept between two requests
_MAX_REQUEST_LINE_BYTES = 4096
_SHUTDOWN_SECONDS = 0.5  # for requests in progress
_BACKLOG = 128  # connections to the control socket that wait to be accepted


class Servers:
    """The listening sockets of an `HTTPApi`."""

    def __init__(self, given: Mapping[str, Sequence[int]] = MappingProxyType({})) -> None:
        """`given`: listening sockets that the program before us in this process left open (see
        `descriptors`), by address; they belong to this object from now on.
        """
        self._given = {name: [socket.socket(fileno=fd) for fd in fds] for name, fds in given.items()}
        self._runners: list[web.AppRunner] = []
        self._sites: list[web.SockSite] = []  # that are not served yet
        self._listeners: list[Listener] = []
        self._listening: dict[str, Sequence[socket.socket]] = {}
        self._serving = False

    async def listen_unix(self, app: web.Application, path: Path) -> None:
        """Listen on a unix socket that only its user and the group `facilitator` can open. OSError when it
        cannot be made.
        """
        from aiohttp import web

        given = self._given.pop(str(path), [])
        if given and path.is_socket():
            listening = given[0]
        else:
            disk.make_way(path)
            path.unlink(missing_ok=True)
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listening.bind(str(path))
        listening.setblocking(False)
        self._listening[str(path)] = [listening]
        path.chmod(0o660)
        share(path)
        listening.listen(_BACKLOG)
        self._sites.append(web.SockSite(await self._runner(app), listening, backlog=_BACKLOG))

    async def listen_tcp(
        self,
        app: web.Application,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        timeouts: Timeouts | None = None,
    ) -> None:
        """Listen on TCP. OSError when the address cannot be bound: nothing was done, and it may be tried
        again.
        """
        protocols: list[Callable[[], asyncio.Protocol]] = []

        def protocol() -> asyncio.Protocol:
            return protocols[0]()

        listener = Listener(protocol, tls, timeouts or Timeouts())
        await listener.open(host, port, self._given.pop(f"{host}:{port}", []))
        server = (await self._runner(app)).server
        assert server is not None
        protocols.append(server)
        self._listeners.append(listener)
        self._listening[f"{host}:{port}"] = listener.sockets
        if self._serving:
            listener.start_accepting()

    async def serve(self) -> None:
        """Answer from now on, also connections that wait."""
        self._serving = True
        while self._sites:
            await self._sites.pop().start()
        for listener in self._listeners:
            listener.start_accepting()

    def descriptors(self) -> dict[str, tuple[int, ...]]:
        """The listening sockets by address."""
        return {name: tuple(each.fileno() for each in sockets) for name, sockets in self._listening.items()}

    def addresses(self) -> list[tuple[str, int] | str]:
        """Where it listens: paths and (host, port) pairs."""
        unix = [
            name
            for name, sockets in self._listening.items()
            if any(each.family == socket.AF_UNIX for each in sockets)
        ]
        return [*unix, *(address for listener in self._listeners for address in listener.addresses)]

    def close_unused(self) -> None:
        """Close the given sockets whose addresses are not configured any more."""
        for each in [each for sockets in self._given.values() for each in sockets]:
            each.close()
        self._given = {}

    async def close(self) -> None:
        """Close the sockets; requests in progress get half a second."""
        self.close_unused()
        for listener in self._listeners:
            listener.stop_accepting()
        for runner in self._runners:
            await runner.cleanup()
        for listener in self._listeners:
            await listener.close()
        for each in [each for sockets in self._listening.values() for each in sockets]:
            each.close()

    async def _runner(self, app: web.Application) -> web.AppRunner:
        from aiohttp import web

        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN_SECONDS,
            keepalive_timeout=_KEEPALIVE_SECONDS,
            max_line_size=_MAX_REQUEST_LINE_BYTES,
        )
        await runner.setup()
        self._runners.append(runner)
        return runner


def share(path: Path) -> bool:
    """Give a file or directory to the group `facilitator`; False when there is no such group or we
    may not.
    """
    try:
        group = grp.getgrnam(GROUP).gr_gid
        if path.stat().st_gid != group:  # chown itself may be forbidden, as by our unit
            os.chown(path, -1, group)
    except (KeyError, PermissionError):
        return False
    return True
