"""Who is at the other end of the control socket: whether he may change anything, and the record of what he
asked for.
"""

from __future__ import annotations

import contextlib
import grp
import hmac
import os
import pwd
import secrets
import select
import socket
import struct
from asyncio import BaseTransport
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from supervisor import disk
from supervisor.control.client import KEY_FILE, KEY_HEADER
from supervisor.control.middleware import Handler
from supervisor.control.sockets import GROUP, share

FAILED = "failed"  # key of a request: why what was asked for was not done, though the answer is a regular one
_SO_PEERPIDFD = 77
_PREFIX = "/api/v1/"
_TUNNELS = "tunnels/"

Told = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class PeerProcess:
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


def peer_of(transport: BaseTransport | None) -> PeerProcess | None:
    """Of a connection to a unix socket; None: it is gone."""
    connection: socket.socket | None = transport.get_extra_info("socket") if transport is not None else None
    if connection is None:
        return None
    return PeerProcess(*_credentials(connection))


def _credentials(connection: socket.socket) -> tuple[int, int, int]:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, gid = struct.unpack("3i", credentials)
    return pid, uid, gid


# --- clients of ours stay out
# ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClientGuard:
    """Keeps the daemon's own clients away from the control socket, though they may run as its user.

    A client is known by its parents, its session and its tag. One of an earlier daemon that has left all of
    these behind still has what it can never get rid of: no_new_privs. Who has it shows a key, from a file
    that no client can read where the kernel has Landlock.
    """

    is_client: Callable[[int], bool]
    key: str

    def refusal(self, connection: socket.socket | None, shown: str) -> str | None:
        """Why this connection is not served; None: it is."""
        if connection is None:
            return "the connection is gone"
        pid, uid, _ = _credentials(connection)
        if pid == 0:  # outside of our pid namespace, where no client can be
            return None
        with _pinned(connection, pid) as alive:
            known, suspect = self.is_client(pid), _confined(pid, uid)
            if not alive():
                return "the process that has connected has ended"
        if known:
            return f"process {pid} belongs to a client of this daemon, and those do not control it"
        if suspect and not hmac.compare_digest(shown.encode(), self.key.encode()):
            return (
                f"process {pid} runs with no_new_privs, like a client of this daemon: show the content "
                f"of {KEY_FILE} in {KEY_HEADER}"
            )
        return None


def new_key(path: Path) -> str:
    """A key for this life of the daemon, in a file for those who may use the socket. OSError."""
    key = secrets.token_hex(32)
    disk.replace(path, key.encode())
    if share(path):
        path.chmod(0o640)
    return key


def _confined(pid: int, uid: int) -> bool:
    """It may be a client: it has no_new_privs, or has our user and hides."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return uid == os.geteuid()
    return "NoNewPrivs:\t0" not in status


@contextlib.contextmanager
def _pinned(connection: socket.socket, pid: int) -> Iterator[Callable[[], bool]]:
    """Tells whether the process lives: as long as it does, what /proc says under its number is about it."""
    try:
        pidfd = _pidfd(connection, pid)
    except OSError:
        yield lambda: False
        return
    ended = select.poll()  # select(2) takes no descriptor above 1023
    ended.register(pidfd, select.POLLIN)
    try:
        yield lambda: not ended.poll(0)
    finally:
        os.close(pidfd)


def _pidfd(connection: socket.socket, pid: int) -> int:
    try:
        return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:  # before Linux 6.5; there the number could have become another process's
        return os.pidfd_open(pid)


def outsiders(gate: ClientGuard) -> Middleware:
    """A middleware that answers nothing to clients of ours."""

    @web.middleware
    async def attend(request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = request.transport.get_extra_info("socket") if request.transport is not None else None
        why = gate.refusal(connection, request.headers.get(KEY_HEADER, ""))
        if why is not None:
            refused = web.HTTPForbidden(text=why)
            refused.force_close()
            raise refused
        return await handler(request)

    return attend


# --- who may change anything
# ----------------------------------------------------------------------------------------------------------


def authorised(told: Told) -> Middleware:
    """A middleware that lets changes be asked for only by those who may, and tells of each attempt: who,
    what, and what came of it.
    """

    @web.middleware
    async def attend(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method in ("GET", "HEAD"):
            return await handler(request)
        peer = peer_of(request.transport)  # now: it may not wait for the answer
        result, why = "interrupted", None
        try:
            if peer is None or not peer.may_change:
                raise web.HTTPForbidden(
                    text=f"only root, the daemon's own user and the group {GROUP} may change anything"
                )
            response = await handler(request)
            why = request.get(FAILED)
            result = "done" if why is None else "failed"
            return response
        except web.HTTPException as error:
            result, why = "refused" if error.status == web.HTTPForbidden.status_code else "failed", error.text
            raise
        finally:
            told(
                _asked(request.path)
                | {"by": None if peer is None else peer.document, "result": result, "why": why}
            )

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
