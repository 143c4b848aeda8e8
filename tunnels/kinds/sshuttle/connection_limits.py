"""Limits the connections of a worker: one source address gets at most half of them, and the daemon's probes
always find room.

    ConnectionLimits.admit -> a ProxiedConnection that counts until it is closed, or None: refused

The daemon's nftables rules limit a source too, over all workers (chain `crowd`), so that it cannot fill the
backlog. Here is counted what a worker really holds: the kernel forgets a connection that was reset before
sshuttle closes it.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import weakref
from collections import Counter
from collections.abc import Callable

from tunnels.drivers.cli import say
from tunnels.kinds.sshuttle.limits import WORKER_CONNECTIONS, WORKER_CONNECTIONS_PER_SOURCE

_NOT_FULL_BELOW = WORKER_CONNECTIONS * 7 // 8  # connections
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing resets the connection
# local address of redirected connections of this host itself, such as probes
_LOOPBACK = ("127.0.0.1", "::1")


class ProxiedConnection(socket.socket):
    """A connection that calls back once when it is closed."""

    def __init__(self, connection: socket.socket, on_close: Callable[[], None]) -> None:
        super().__init__(connection.family, connection.type, connection.proto, connection.detach())
        self._release = weakref.finalize(self, on_close)  # also if it is garbage-collected unclosed
        self._release.atexit = False

    def close(self) -> None:
        """Close it and count it no more."""
        super().close()
        self._release()


class ConnectionLimits:
    """Counts the connections of a worker. Any thread may close them."""

    def __init__(self, on_full: Callable[[bool], object]) -> None:
        """`on_full(True)` is called when there is no more room, `on_full(False)` when there is again."""
        self._on_full = on_full
        self._held: Counter[str] = Counter()
        self._count = 0
        self._full = False
        # reentrant: a garbage-collected connection may be released at any moment
        self._lock = threading.RLock()

    def admit(self, connection: socket.socket, source: str) -> socket.socket | None:
        """The connection to carry; None: it was over a limit, and was reset."""
        if connection.getsockname()[0] in _LOOPBACK:
            return connection
        # a host that has vanished must not hold connections for ever
        _set(connection, socket.SO_KEEPALIVE, 1)
        with self._lock:
            if self._has_room(source):
                return self._count_in(connection, source)
        _set(connection, socket.SO_LINGER, _RESET)
        connection.close()
        return None

    def _has_room(self, source: str) -> bool:
        if self._count >= WORKER_CONNECTIONS and not self._full:
            self._full = True
            self._on_full(True)
        return self._count < WORKER_CONNECTIONS and self._held[source] < WORKER_CONNECTIONS_PER_SOURCE

    def _count_in(self, connection: socket.socket, source: str) -> ProxiedConnection:
        self._held[source] += 1
        self._count += 1
        if self._held[source] == WORKER_CONNECTIONS_PER_SOURCE:
            say(
                f"{source} holds {WORKER_CONNECTIONS_PER_SOURCE} connections, as many as one source may hold through one process; "
                f"more of its are refused"
            )
        return ProxiedConnection(connection, lambda: self._count_out(source))

    def _count_out(self, source: str) -> None:
        with self._lock:
            self._count -= 1
            self._held[source] -= 1
            if not self._held[source]:
                del self._held[source]
            if self._full and self._count <= _NOT_FULL_BELOW:
                self._full = False
                self._on_full(False)


def _set(connection: socket.socket, option: int, value: int | bytes) -> None:
    with contextlib.suppress(OSError):  # it is over already
        connection.setsockopt(socket.SOL_SOCKET, option, value)
