"""The door of the HTTP server: accepts connections so that no guest, however slow or idle, keeps another
one waiting.

A guest has a moment for the TLS handshake, one for the first request and one for taking an answer; each
handshake is a task of its own. When the house is full, the one that has been idle for longest makes room, so
that a scraper always gets in.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_BACKLOG = 128  # connections that the kernel holds until they are accepted
_NO_DESCRIPTOR = 0.2  # seconds until the next attempt when the system refuses to accept


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How many guests there may be, and how long they may take, in seconds."""

    guests: int = 256
    handshake: float = 5.0
    request: float = 10.0  # from the connection to the end of the first request's head
    answer: float = (
        30.0  # from the moment at which an answer does not fit into the buffers to the one at which it does
    )


class HTTPConnection(asyncio.Protocol):
    """One connection: passes everything on to aiohttp's protocol, and leaves when its time is over."""

    def __init__(self, inner: asyncio.Protocol, patience: Timeouts) -> None:
        self._inner, self._patience = inner, patience
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.gone = asyncio.Event()
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is in, and has to say what it wants."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._within(self._patience.request)
        self._inner.connection_made(transport)

    def began(self) -> None:
        """It has said what it wants."""
        self.busy = True
        self._in_time()

    def ended(self) -> None:
        """It has its answer, or most of it."""
        self.busy = False

    def data_received(self, data: bytes) -> None:
        """Pass on."""
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass on."""
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """It takes its answer slowly."""
        self._within(self._patience.answer)
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """It has taken it."""
        self._in_time()
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """It left."""
        self._in_time()
        self._transport = None
        self._inner.connection_lost(exc)
        self.gone.set()

    def leave(self) -> None:
        """Show it out at once."""
        if self._transport is not None:
            with contextlib.suppress(AttributeError):  # Python 3.11: a TLS transport that was closed twice
                self._transport.abort()

    def _within(self, seconds: float) -> None:
        self._in_time()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.leave)

    def _in_time(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Listener:
    """One listening TCP socket and the guests that came through it."""

    def __init__(
        self, make: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None, patience: Timeouts
    ) -> None:
        self._make, self._tls, self._patience = make, tls, patience
        self._sockets: list[socket.socket] = []
        self._doormen: list[asyncio.Task[None]] = []
        self._guests: dict[asyncio.Task[None], HTTPConnection] = {}  # in the order in which they came

    async def open(self, host: str, port: int, given: Iterable[socket.socket] = ()) -> None:
        """Listen on all addresses of the host, or on the sockets that are `given` for them; who connects
        waits until `attend`.

        OSError when an address cannot be had.
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
                self._sockets.append(_listening(family, address))
        except OSError:
            await self.close()
            raise

    def attend(self) -> None:
        """Let in who has connected, and who will."""
        loop = asyncio.get_running_loop()
        self._doormen = self._doormen or [
            loop.create_task(self._accept(each), name="http door") for each in self._sockets
        ]

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """Where it listens."""
        return tuple(self._sockets)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of each socket."""
        return [each.getsockname()[:2] for each in self._sockets]

    def shut(self) -> None:
        """Nobody gets in any more."""
        for doorman in self._doormen:
            doorman.cancel()

    async def close(self) -> None:
        """Everybody leaves."""
        self.shut()
        for task in self._guests:
            task.cancel()
        await asyncio.gather(*self._doormen, *self._guests, return_exceptions=True)
        for each in self._sockets:
            each.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError:  # it left before it was in, or there is no descriptor left
                await asyncio.sleep(_NO_DESCRIPTOR)
                continue
            self._make_room()
            guest = HTTPConnection(self._make(), self._patience)
            task = loop.create_task(self._receive(connection, guest), name="http connection")
            self._guests[task] = guest
            task.add_done_callback(lambda done: self._guests.pop(done, None))

    def _make_room(self) -> None:
        if len(self._guests) < self._patience.guests:
            return
        idle = next((task for task, guest in self._guests.items() if not guest.busy), None)
        oldest = idle or next(iter(self._guests))
        del self._guests[oldest]
        oldest.cancel()

    async def _receive(self, connection: socket.socket, guest: HTTPConnection) -> None:
        handshake = None if self._tls is None else self._patience.handshake
        try:
            with contextlib.suppress(
                OSError
            ):  # also what TLS has to say about a handshake, and a handshake that takes too long
                await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: guest, connection, ssl=self._tls, ssl_handshake_timeout=handshake
                )
                await guest.gone.wait()
        finally:
            guest.leave()


def _listening(
    family: int, address: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # as the host's own addresses are: each family by itself
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.listen(_BACKLOG)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made
