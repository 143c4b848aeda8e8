"""Who is at the other end of the control socket: whether he may change anything, and the record of what he asked for."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from asyncio import BaseTransport
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from supervisor.control.guard import Handler
from supervisor.control.servers import GROUP

FAILED = "failed"       # key of a request: why what was asked for was not done, though the answer is a regular one
_PREFIX = "/api/v1/"
_TUNNELS = "tunnels/"

Told = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Peer:
    """A process, as the kernel knows it (SO_PEERCRED, unix(7))."""

    pid: int
    uid: int
    gid: int

    @property
    def may_change(self) -> bool:
        """Root, the daemon's own user and the group `facilitator` may."""
        return self.uid in (0, os.geteuid()) or GROUP in _groups(self.uid, self.gid)

    @property
    def document(self) -> dict[str, Any]:
        """For a record."""
        return {"uid": self.uid, "user": _user(self.uid), "pid": self.pid}


def peer_of(transport: BaseTransport | None) -> Peer | None:
    """Of a connection to a unix socket; None: it is gone."""
    connection: socket.socket | None = transport.get_extra_info("socket") if transport is not None else None
    if connection is None:
        return None
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return Peer(*struct.unpack("3i", credentials))


def authorised(told: Told) -> Middleware:
    """A middleware that lets changes be asked for only by those who may, and tells of each attempt: who, what, and what came of it."""

    @web.middleware
    async def attend(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method in ("GET", "HEAD"):
            return await handler(request)
        peer = peer_of(request.transport)       # now: it may not wait for the answer
        result, why = "interrupted", None
        try:
            if peer is None or not peer.may_change:
                raise web.HTTPForbidden(text=f"only root, the daemon's own user and the group {GROUP} may change anything")
            response = await handler(request)
            why = request.get(FAILED)
            result = "done" if why is None else "failed"
            return response
        except web.HTTPException as error:
            result, why = "refused" if error.status == web.HTTPForbidden.status_code else "failed", error.text
            raise
        finally:
            told(_asked(request.path) | {"by": None if peer is None else peer.document, "result": result, "why": why})

    return attend


def _asked(path: str) -> dict[str, Any]:
    """`/api/v1/tunnels/NAME/VERB` or `/api/v1/VERB`, taken apart."""
    what = path.removeprefix(_PREFIX)
    if not what.startswith(_TUNNELS):
        return {"action": what, "tunnel": None}
    tunnel, _, verb = what.removeprefix(_TUNNELS).partition("/")
    return {"action": verb, "tunnel": tunnel}


def _groups(uid: int, gid: int) -> set[str]:
    try:
        ids = {gid, *os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)}
    except KeyError:
        ids = {gid}
    return {entry.gr_name for entry in grp.getgrall() if entry.gr_gid in ids}


def _user(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None
