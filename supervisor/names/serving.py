"""Listens for staff, over UDP and TCP, on each address that is wanted. An address that this host does not
have yet is listened on all the same (ip(7): IP_FREEBIND).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from common.configuration.notation import Listen
from supervisor.names.wire import QUESTION

Send = Callable[[bytes], None]
_AT_ONCE = 64  # datagrams that are taken before others have their turn
_MAX_QUERY = 4096
_BUFFER = 1 << 20  # bytes of the kernel's queue
_MAX_STREAMS, _MAX_STREAMS_OF_ONE = 500, 20  # TCP connections, and those of one source
_IDLE_SECONDS = 10.0
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78  # linux/in.h, linux/in6.h
_LENGTH = struct.Struct("!H")


class Take(Protocol):
    """Answers a message of a source, now or later, or never."""

    def __call__(self, message: bytes, source: str, send: Send, *, stream: bool = False) -> None:
        """Returns at once; `send` may be called later."""


class Listeners:
    """All addresses that are listened on."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._open: dict[Listen, _Listener] = {}
        self.problems: dict[str, str] = {}  # by address: why it cannot be listened on

    async def set(self, wanted: Sequence[Listen]) -> None:
        """Listen on exactly these; what already is listened on goes on undisturbed."""
        for gone in self._open.keys() - set(wanted):
            self._open.pop(gone).close()
        self.problems = {}
        for address in wanted:
            if address in self._open:
                continue
            listener = _Listener(self._take)
            try:
                await listener.open(address)
            except OSError as error:
                listener.close()
                self.problems[str(address)] = error.strerror or str(error)
            else:
                self._open[address] = listener

    def close(self) -> None:
        """Listen no more."""
        for listener in self._open.values():
            listener.close()
        self._open = {}


class _Listener:
    """One address."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._datagrams: socket.socket | None = None
        self._streams: asyncio.Server | None = None
        self._connections: Counter[str] = Counter()

    async def open(self, address: Listen) -> None:
        """OSError: it cannot be listened on."""
        self._datagrams = _bound(address, socket.SOCK_DGRAM)
        with contextlib.suppress(OSError):
            self._datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        stream = _bound(address, socket.SOCK_STREAM)
        self._streams = await asyncio.start_server(self._connected, sock=stream, limit=1 << 16)
        asyncio.get_running_loop().add_reader(self._datagrams, self._readable)

    def close(self) -> None:
        """Listen no more."""
        if self._datagrams is not None:
            asyncio.get_running_loop().remove_reader(self._datagrams)
            self._datagrams.close()
        if self._streams is not None:
            self._streams.close()

    def _readable(self) -> None:
        sock, take = self._datagrams, self._take
        assert sock is not None
        for _ in range(_AT_ONCE):
            try:
                message, source = sock.recvfrom(_MAX_QUERY)
            except OSError:  # none is left, or an ICMP error about an earlier answer
                return

            def send(answer: bytes, to: tuple[str, int] = source) -> None:
                with contextlib.suppress(OSError):  # the queue is full, or there is no route
                    sock.sendto(answer, to)

            take(message, source[0], send)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source = str(writer.get_extra_info("peername")[0])
        self._connections[source] += 1
        try:
            if self._connections[source] <= _MAX_STREAMS_OF_ONE and self._connections.total() <= _MAX_STREAMS:
                with contextlib.suppress(OSError, EOFError, TimeoutError):
                    await self._answer(reader, writer, source)
        finally:
            self._connections[source] -= 1
            if not self._connections[source]:
                del self._connections[source]
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: str) -> None:
        """Answer one query after the other until the source falls silent."""
        while True:
            async with asyncio.timeout(_IDLE_SECONDS):
                (length,) = _LENGTH.unpack(await reader.readexactly(2))
                message = await reader.readexactly(length)
            if len(message) < QUESTION:
                return
            answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

            def send(answer: bytes, to: asyncio.Future[bytes] = answered) -> None:
                if not to.done():
                    to.set_result(answer)

            self._take(message, source, send, stream=True)
            async with asyncio.timeout(_IDLE_SECONDS):
                answer = await answered
            writer.write(_LENGTH.pack(len(answer)) + answer)
            async with asyncio.timeout(_IDLE_SECONDS):
                await writer.drain()


def _bound(address: Listen, kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind == socket.SOCK_STREAM))
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        sock.bind((address.host, address.port))
    except OSError:
        sock.close()
        raise
    return sock
