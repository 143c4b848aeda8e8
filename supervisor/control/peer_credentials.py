"""Who is at the other end of the control socket: the daemon's own VPN clients are refused, only operators may
change anything, and every attempt is recorded.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Middleware

from supervisor import disk
from supervisor.control.client import KEY_FILE, KEY_HEADER
from supervisor.control.middleware import Handler
from supervisor.control.sockets import GROUP, share
from supervisor.core.views.audit_lines import ChangeRequest, Requester

FAILURE = "failure"  # key of a request: why the change was not made, though the response is 200
_SO_PEERPIDFD = 77  # asm-generic/socket.h, since Linux 6.5
_PREFIX = "/api/v1/"
_TUNNELS = "tunnels/"


@dataclass(frozen=True, slots=True)
class PeerProcess:
    """The process that connected (SO_PEERCRED, unix(7))."""

    pid: int
    uid: int
    gid: int

    @property
    def may_change(self) -> bool:
        """Root, the daemon's own user and the group `facilitator` may."""
        return self.uid in (0, os.geteuid()) or GROUP in _groups(self.uid, self.gid)

    @property
    def requester(self) -> Requester:
        """For the record of a change."""
        return {"uid": self.uid, "user": _user(self.uid), "pid": self.pid}


def peer_of(transport: BaseTransport | None) -> PeerProcess | None:
    """The peer of a connection to a unix socket; None: the connection is gone."""
    connection: socket.socket | None = transport.get_extra_info("socket") if transport is not None else None
    if connection is None:
        return None
    return PeerProcess(*_credentials(connection))


def _credentials(connection: socket.socket) -> tuple[int, int, int]:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, gid = struct.unpack("3i", credentials)
    return pid, uid, gid


# --- the daemon's own VPN clients are refused
# ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClientGuard:
    """Keeps the daemon's own VPN clients off the control socket, although they may run as its user.

    `is_client` knows a client by its parents, its session and its tag. A client of an earlier daemon that has
    lost all of these still has no_new_privs, which no process can drop. So whoever has no_new_privs must show
    `key`, the content of a file that clients cannot read where the kernel has Landlock.
    """

    is_client: Callable[[int], bool]
    key: str

    def refusal(self, connection: socket.socket | None, shown: str) -> str | None:
        """Why this connection is not served; None: it is. `shown`: the key that it sent."""
        if connection is None:
            return "the connection is gone"
        pid, uid, _ = _credentials(connection)
        if pid == 0:  # outside of our PID namespace, where no client of ours can be
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
    """Write a new key to a file that those who may use the socket can read. OSError."""
    key = secrets.token_hex(32)
    disk.replace(path, key.encode())
    if share(path):
        path.chmod(0o640)
    return key


def _confined(pid: int, uid: int) -> bool:
    """It may be a client: it has no_new_privs, or it runs as our user and its status cannot be read."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return uid == os.geteuid()
    return "NoNewPrivs:\t0" not in status


@contextlib.contextmanager
def _pinned(connection: socket.socket, pid: int) -> Iterator[Callable[[], bool]]:
    """Yields a function: True while the process lives, so that /proc/PID is still about the same process."""
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
    except OSError:  # before Linux 6.5, where the PID could have been reused in between
        return os.pidfd_open(pid)


def refuse_own_clients(guard: ClientGuard) -> Middleware:
    """Answer 403 to the daemon's own VPN clients, whatever they ask."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = request.transport.get_extra_info("socket") if request.transport is not None else None
        why = guard.refusal(connection, request.headers.get(KEY_HEADER, ""))
        if why is not None:
            refused = web.HTTPForbidden(text=why)
            refused.force_close()
            raise refused
        return await handler(request)

    return middleware


# --- only operators change anything
# ----------------------------------------------------------------------------------------------------------


def only_operators_change(record: Callable[[ChangeRequest], None]) -> Middleware:
    """Answer 403 to requests for a change by others than operators, and record each attempt: who, what, and
    the result.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method in ("GET", "HEAD"):
            return await handler(request)
        peer = peer_of(request.transport)  # now, because it may be gone before the response
        result, why = "interrupted", None
        try:
            if peer is None or not peer.may_change:
                raise web.HTTPForbidden(
                    text=f"only root, the daemon's own user and the group {GROUP} may change anything"
                )
            response = await handler(request)
            why = request.get(FAILURE)
            result = "done" if why is None else "failed"
            return response
        except web.HTTPException as error:
            result, why = "refused" if error.status == web.HTTPForbidden.status_code else "failed", error.text
            raise
        finally:
            action, tunnel = _change(request.path)
            by = None if peer is None else peer.requester
            record({"action": action, "tunnel": tunnel, "by": by, "result": result, "why": why})

    return middleware


def _change(path: str) -> tuple[str, str | None]:
    """The action and the tunnel of `/api/v1/tunnels/NAME/VERB` or `/api/v1/VERB`."""
    what = path.removeprefix(_PREFIX)
    if not what.startswith(_TUNNELS):
        return what, None
    tunnel, _, verb = what.removeprefix(_TUNNELS).partition("/")
    return verb, tunnel


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
