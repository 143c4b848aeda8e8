"""Asks a customer's servers, through the lane of their tunnel and nothing else: each query has a socket of
its own, whose port the kernel draws, a random identifier, and letters of random case that the answer must
repeat (draft-vixie-dnsext-dns0x20). What does not belong to the query is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from supervisor.core.names.values import NamesOfTunnel
from supervisor.names.answers import MAX_BYTES, SentQuery, belongs, belongs_but_case, is_truncated
from supervisor.names.wire import UDP_BYTES, query
from tunnels.networks import IPAddress

PORT = 53
TRY_SECONDS = (
    0.4,
    1.0,
)  # until the next server is asked: in the first round over all of them, and in the second
TCP_SECONDS = 2.0
MAX_FORGED = 100  # messages that do not belong to a query, until it is given up
_LENGTH = struct.Struct("!H")


class NoAnswer(Exception):
    """A server did not answer; the text says why."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a server is reached."""

    mark: int = 0  # 0: as everything else on this host
    device: str | None = None
    stream: bool = False  # TCP only


def way_into(tunnel: NamesOfTunnel) -> Way:
    """Through the tunnel's lane; a proxy carries TCP only."""
    return Way(tunnel.mark, tunnel.device, tunnel.device is None)


def new_query(name: bytes, kind: int) -> SentQuery:
    """A query with random identifier and case of letters; `name` in lower case."""
    mixed = _mixed_case(name)
    return SentQuery(query(secrets.randbits(16), mixed, kind), mixed, kind)


def _mixed_case(name: bytes) -> bytes:
    bits, done = secrets.randbits(len(name)), bytearray(name)
    left = 0
    for place, letter in enumerate(name):
        if left == 0:
            left = letter
        else:
            left -= 1
            if 0x61 <= letter <= 0x7A and bits >> place & 1:
                done[place] = letter - 0x20
    return bytes(done)


async def ask(
    server: IPAddress, asked: SentQuery, way: Way, forged: Callable[[], None], within: float = TRY_SECONDS[-1]
) -> bytes:
    """The server's answer, `within` seconds over UDP. `forged` is called for each message that does not
    belong to the query. NoAnswer.
    """
    try:
        if not way.stream:
            async with asyncio.timeout(within):
                answer = await _over_udp(server, asked, way, forged)
            if answer is not None:
                return answer
        async with asyncio.timeout(TCP_SECONDS):
            return await _over_tcp(server, asked, way)
    except TimeoutError:
        raise NoAnswer(f"{server} does not answer") from None
    except (OSError, EOFError) as error:
        text = getattr(error, "strerror", None) or "the connection ended"
        raise NoAnswer(f"{server} cannot be asked: {text}") from None


async def _over_udp(
    server: IPAddress, asked: SentQuery, way: Way, forged: Callable[[], None]
) -> bytes | None:
    """The answer; None: it has to be asked for over TCP."""
    loop = asyncio.get_running_loop()
    async with _connected(server, socket.SOCK_DGRAM, way) as sock:
        sock.send(asked.message)
        for _ in range(MAX_FORGED):
            message = await loop.sock_recv(sock, UDP_BYTES + 1)
            if len(message) <= UDP_BYTES and belongs(message, asked):
                return None if is_truncated(message) else message
            if belongs_but_case(message, asked):
                return None
            forged()
    raise NoAnswer(f"{server} sends messages that are no answers")


async def _over_tcp(server: IPAddress, asked: SentQuery, way: Way) -> bytes:
    loop = asyncio.get_running_loop()
    async with _connected(server, socket.SOCK_STREAM, way) as sock:
        await loop.sock_sendall(sock, _LENGTH.pack(len(asked.message)) + asked.message)
        (length,) = _LENGTH.unpack(await _exactly(sock, 2))
        if length > MAX_BYTES:
            raise NoAnswer(f"{server}: its answer is too large")
        message = await _exactly(sock, length)
    if not belongs_but_case(message, asked):
        raise NoAnswer(f"{server} sends messages that are no answers")
    end = len(asked.question)
    return message[:12] + asked.question + message[12 + end :]


async def _exactly(sock: socket.socket, size: int) -> bytes:
    loop, data = asyncio.get_running_loop(), bytearray()
    while len(data) < size:
        more = await loop.sock_recv(sock, size - len(data))
        if not more:
            raise EOFError
        data += more
    return bytes(data)


@contextlib.asynccontextmanager
async def _connected(server: IPAddress, kind: socket.SocketKind, way: Way) -> AsyncIterator[socket.socket]:
    """A socket that can use this way only (socket(7): SO_MARK, SO_BINDTODEVICE). OSError."""
    family = socket.AF_INET if server.version == 4 else socket.AF_INET6
    with socket.socket(family, kind | socket.SOCK_NONBLOCK) as sock:
        if way.mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, way.mark)
        if way.device is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, way.device.encode() + b"\0")
        if kind == socket.SOCK_DGRAM:
            sock.connect((str(server), PORT))
        else:
            await asyncio.get_running_loop().sock_connect(sock, (str(server), PORT))
        yield sock


async def hand_on(server: IPAddress, message: bytes, name: bytes, *, stream: bool) -> bytes:
    """The answer of a server of the company to a query of staff, as it is; `name`: as it stands in the query.
    NoAnswer.
    """
    identifier, way = secrets.token_bytes(2), Way(stream=stream)
    asked = SentQuery(identifier + message[2:], name, 0)
    try:
        async with asyncio.timeout(TCP_SECONDS):
            if stream:
                answer = await _over_tcp(server, asked, way)
            else:
                answer = await _relayed(server, asked, way)
    except TimeoutError:
        raise NoAnswer(f"{server} does not answer") from None
    except (OSError, EOFError) as error:
        raise NoAnswer(f"{server} cannot be asked: {error}") from None
    return message[:2] + answer[2:]


async def _relayed(server: IPAddress, asked: SentQuery, way: Way) -> bytes:
    loop = asyncio.get_running_loop()
    async with _connected(server, socket.SOCK_DGRAM, way) as sock:
        sock.send(asked.message)
        for _ in range(MAX_FORGED):
            message = await loop.sock_recv(sock, 65_535)
            if belongs(message, asked):
                return message
    raise NoAnswer(f"{server} sends messages that are no answers")
