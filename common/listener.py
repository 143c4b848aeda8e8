"""The listening socket of the HTTP server, with timeouts and a limit of connections, so that slow or idle
clients keep nobody else waiting.

Each connection has a time limit for the TLS handshake, for the first request and for taking a response; each
handshake is a task of its own. At the limit of connections the one that has been idle for longest is closed,
so that a scraper always gets in.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_BACKLOG = 128  # connections that the kernel holds until they are accepted
_ACCEPT_RETRY_SECONDS = 0.2  # after accept(2) failed


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of the connections of one listener."""

    connections: int = 256
    handshake_seconds: float = 5.0
    request_seconds: float = 10.0  # from the connection to the end of the first request's headers
    response_seconds: float = 30.0  # for which the client may leave the send buffers full


class HTTPConnection(asyncio.Protocol):
    """One connection: hands everything to aiohttp's protocol and aborts when a time limit has passed."""

    def __init__(self, inner: asyncio.Protocol, timeouts: Timeouts) -> None:
        self._inner, self._timeouts = inner, timeouts
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.closed = asyncio.Event()
        self.busy = False  # a request is in progress

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done; the request must follow in time."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._start_timer(self._timeouts.request_seconds)
        self._inner.connection_made(transport)

    def request_started(self) -> None:
        """The headers of a request have been read."""
        self.busy = True
        self._stop_timer()

    def request_finished(self) -> None:
        """The response has been handed to the transport."""
        self.busy = False

    def data_received(self, data: bytes) -> None:
        """Pass on."""
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass on."""
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """The send buffers are full."""
        self._start_timer(self._timeouts.response_seconds)
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """They have been emptied."""
        self._stop_timer()
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Either end has closed it."""
        self._stop_timer()
        self._transport = None
        self._inner.connection_lost(exc)
        self.closed.set()

    def abort(self) -> None:
        """Close it at once, whatever has not been sent."""
        if self._transport is not None:
            with contextlib.suppress(AttributeError):  # Python 3.11: a TLS transport that was closed twice
                self._transport.abort()

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Listener:
    """The TCP sockets of one address, and their connections."""

    def __init__(
        self, make: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None, timeouts: Timeouts
    ) -> None:
        """`make`: makes the protocol that serves one connection."""
        self._make, self._tls, self._timeouts = make, tls, timeouts
        self._sockets: list[socket.socket] = []
        self._acceptors: list[asyncio.Task[None]] = []
        self._connections: dict[asyncio.Task[None], HTTPConnection] = {}  # the oldest first

    async def open(self, host: str, port: int, given: Iterable[socket.socket] = ()) -> None:
        """Listen on all addresses of the host, or on the `given` sockets. Connections wait in the backlog
        until `start_accepting`.

        OSError when an address cannot be bound.
        """
        loop = asyncio.get_running_loop()
        self._sockets = list(given)
        for each in self._sockets:
            each.setblocking(False)
        found = (
            ()
            if self._sockets
            else await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        )
        try:
            for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
                self._sockets.append(_listen(family, address))
        except OSError:
            await self.close()
            raise

    def start_accepting(self) -> None:
        """Accept connections from now on, also those that wait."""
        loop = asyncio.get_running_loop()
        self._acceptors = self._acceptors or [
            loop.create_task(self._accept(each), name="http listener") for each in self._sockets
        ]

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening sockets."""
        return tuple(self._sockets)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of each socket."""
        return [each.getsockname()[:2] for each in self._sockets]

    def stop_accepting(self) -> None:
        """Accept no further connection."""
        for acceptor in self._acceptors:
            acceptor.cancel()

    async def close(self) -> None:
        """Close all connections and sockets."""
        self.stop_accepting()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._acceptors, *self._connections, return_exceptions=True)
        for each in self._sockets:
            each.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError:  # the client is gone already, or no file descriptor is left
                await asyncio.sleep(_ACCEPT_RETRY_SECONDS)
                continue
            self._make_room()
            connection = HTTPConnection(self._make(), self._timeouts)
            task = loop.create_task(self._serve(accepted, connection), name="http connection")
            self._connections[task] = connection
            task.add_done_callback(lambda done: self._connections.pop(done, None))

    def _make_room(self) -> None:
        """At the limit, close the oldest idle connection, or the oldest of all."""
        if len(self._connections) < self._timeouts.connections:
            return
        idle = next((task for task, connection in self._connections.items() if not connection.busy), None)
        closing = idle or next(iter(self._connections))
        del self._connections[closing]
        closing.cancel()

    async def _serve(self, accepted: socket.socket, connection: HTTPConnection) -> None:
        handshake = None if self._tls is None else self._timeouts.handshake_seconds
        try:
            with contextlib.suppress(OSError):  # includes TLS errors and a handshake that takes too long
                await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: connection, accepted, ssl=self._tls, ssl_handshake_timeout=handshake
                )
                await connection.closed.wait()
        finally:
            connection.abort()


def _listen(
    family: int, address: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # the IPv4 addresses of the host have sockets of their own
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.listen(_BACKLOG)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made
