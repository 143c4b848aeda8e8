"""How many connections a worker carries, and for whom: one source gets at most half of them, and the
daemon's probes always find room.

    Guests.admit -> a Guest that counts until it is closed, or None: refused

The daemon's rules hold a source to its share too, over all workers (chain `crowd`), so that it cannot fill
the queue of connections that wait. Here it counts what a worker really holds: the kernel forgets a connection
that was reset before sshuttle has closed it.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import weakref
from collections import Counter
from collections.abc import Callable

from tunnels.kinds.sshuttle.limits import CONNECTIONS, SHARE
from tunnels.kinds.sshuttle.messages import say

_ENOUGH = CONNECTIONS * 7 // 8  # when so few are left it is not full any more
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing resets the connection
_OWN = (
    "127.0.0.1",
    "::1",
)  # where connections of this host itself are redirected to; nobody else can be there


class ProxiedConnection(socket.socket):
    """A connection that counts until it is closed."""

    def __init__(self, connection: socket.socket, left: Callable[[], None]) -> None:
        super().__init__(connection.family, connection.type, connection.proto, connection.detach())
        self._left = weakref.finalize(self, left)  # also when nobody closes it
        self._left.atexit = False

    def close(self) -> None:
        """Close it, and make room."""
        super().close()
        self._left()


class Guests:
    """The connections that a worker carries. They may be closed by any thread."""

    def __init__(self, full: Callable[[bool], object]) -> None:
        """`full` hears when there is no room any more, and when there is again."""
        self._tell_full = full
        self._held: Counter[str] = Counter()
        self._count = 0
        self._full = False
        self._one = threading.RLock()  # a guest that is garbage can leave at any moment

    def admit(self, connection: socket.socket, source: str) -> socket.socket | None:
        """The connection to carry; None: it was reset."""
        if connection.getsockname()[0] in _OWN:
            return connection
        _set(connection, socket.SO_KEEPALIVE, 1)  # a laptop that vanished must not hold its share for ever
        with self._one:
            if self._has_room(source):
                return self._enter(connection, source)
        _set(connection, socket.SO_LINGER, _RESET)
        connection.close()
        return None

    def _has_room(self, source: str) -> bool:
        if self._count >= CONNECTIONS and not self._full:
            self._full = True
            self._tell_full(True)
        return self._count < CONNECTIONS and self._held[source] < SHARE

    def _enter(self, connection: socket.socket, source: str) -> ProxiedConnection:
        self._held[source] += 1
        self._count += 1
        if self._held[source] == SHARE:
            say(
                f"{source} holds {SHARE} connections, as many as one source may hold through one process; "
                f"more of its are refused"
            )
        return ProxiedConnection(connection, lambda: self._leave(source))

    def _leave(self, source: str) -> None:
        with self._one:
            self._count -= 1
            self._held[source] -= 1
            if not self._held[source]:
                del self._held[source]
            if self._full and self._count <= _ENOUGH:
                self._full = False
                self._tell_full(False)


def _set(connection: socket.socket, option: int, value: int | bytes) -> None:
    with contextlib.suppress(OSError):  # it is over already
        connection.setsockopt(socket.SOL_SOCKET, option, value)
