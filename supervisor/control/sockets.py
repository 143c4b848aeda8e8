"""The listening sockets of the HTTP server: the control socket, and TCP behind a door that no guest can
block.

listen_unix, listen_tcp (an address that cannot be had ends the start; who connects waits) -> serve: everybody
is answered
"""

from __future__ import annotations

import grp
import os
import socket
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from supervisor import disk
from supervisor.control.listener import Listener, Timeouts

if TYPE_CHECKING:
    from aiohttp import web  # takes its time: not before the clients are adopted

GROUP = "facilitator"  # its members may use the control socket
_KEPT = 75.0  # seconds that a connection is kept between two requests
_LINE = 4096  # bytes of a request's first line
_BACKLOG = 128  # connections to the control socket that wait to be accepted


class Servers:
    """The listening sockets of an `Api`."""

    def __init__(self, given: Mapping[str, Sequence[int]] = MappingProxyType({})) -> None:
        """`given`: listening sockets of an earlier `Servers` in this process, as `descriptors` told them;
        ours from now on.
        """
        self._given = {name: [socket.socket(fileno=fd) for fd in fds] for name, fds in given.items()}
        self._runners: list[web.AppRunner] = []
        self._sites: list[web.SockSite] = []  # those that do not answer yet
        self._doors: list[Listener] = []
        self._listening: dict[str, Sequence[socket.socket]] = {}

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
        patience: Timeouts | None = None,
    ) -> None:
        """Listen on TCP. OSError when the address cannot be had."""
        server = (await self._runner(app)).server
        assert server is not None
        door = Listener(server, tls, patience or Timeouts())
        await door.open(host, port, self._given.pop(f"{host}:{port}", []))
        self._doors.append(door)
        self._listening[f"{host}:{port}"] = door.sockets

    async def serve(self) -> None:
        """Answer from now on, also those who have connected before."""
        while self._sites:
            await self._sites.pop().start()
        for door in self._doors:
            door.attend()

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
        return [*unix, *(address for door in self._doors for address in door.addresses)]

    def refuse_the_rest(self) -> None:
        """Nobody serves on sockets that were given and are not wanted any more."""
        for each in [each for sockets in self._given.values() for each in sockets]:
            each.close()
        self._given = {}

    async def close(self) -> None:
        """Close the sockets; running requests get a moment."""
        self.refuse_the_rest()
        for door in self._doors:
            door.shut()
        for runner in self._runners:
            await runner.cleanup()
        for door in self._doors:
            await door.close()
        for each in [each for sockets in self._listening.values() for each in sockets]:
            each.close()

    async def _runner(self, app: web.Application) -> web.AppRunner:
        from aiohttp import web

        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,
            shutdown_timeout=0.5,
            keepalive_timeout=_KEPT,
            max_line_size=_LINE,
        )
        await runner.setup()
        self._runners.append(runner)
        return runner


def share(path: Path) -> bool:
    """Give a file or directory to the group `facilitator` where that exists and we may; True when it is so
    now.
    """
    try:
        group = grp.getgrnam(GROUP).gr_gid
        if path.stat().st_gid != group:  # chown itself may be forbidden, as by our unit
            os.chown(path, -1, group)
    except (KeyError, PermissionError):
        return False
    return True
