"""HTTP/1.1 to the endpoints of one service: kept alive, tried in turn, all within one budget of time.

The daemon's own, because a budget for everything (names, connecting, TLS, the answer, the next endpoint) is
what a lease needs, and because the client of aiohttp takes 3 MiB.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from urllib.parse import urlsplit

MAX_ANSWER_BYTES = 32 << 20  # 500 orders that 50 members have acknowledged have 6 MiB
MAX_LINE_BYTES = 4 << 20  # of a stream: etcd's largest event
MAX_IDLE_CONNECTIONS = 2  # that are kept per endpoint
STREAM_SECONDS = 60.0  # after which a stream is begun anew: a dead connection looks like a silent one


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request; `path` begins with a slash."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """One answer. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as a short line, for messages."""
        return " ".join(self.body.decode("utf-8", "backslashreplace").split())[:200]


class EndpointAway(Exception):
    """No endpoint has answered in time; the text says what each one did."""


class EndpointDenied(EndpointAway):
    """An endpoint answers, and refuses us: a certificate, a password or a token is wrong."""


class HttpProblem(Exception):
    """The other end does not speak HTTP, or broke off."""


_PROBLEMS = (TimeoutError, OSError, ValueError, HttpProblem, EOFError, asyncio.LimitOverrunError)


class _Connection:
    """One connection. What goes wrong: OSError, HttpProblem, asyncio.IncompleteReadError."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader, self._writer, self._host = reader, writer, host
        self.reusable = False

    async def begin(self, request: HttpRequest) -> tuple[int, dict[str, str]]:
        """Send it; the status and the headers of the answer."""
        self.reusable = False
        lines = [
            f"{request.method} {request.path} HTTP/1.1",
            f"Host: {self._host}",
            f"Content-Length: {len(request.body)}",
            *(f"{name}: {value}" for name, value in request.headers.items()),
        ]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + request.body)
        first, *rest = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        words = first.split()
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
            raise HttpProblem("it does not speak HTTP")
        pairs = (line.partition(":") for line in rest if line)
        return int(words[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}

    async def pieces(self, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
        """The body, as it comes."""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16):
                if size > MAX_ANSWER_BYTES:
                    raise HttpProblem("its answer is too large")
                yield (await self._reader.readexactly(size + 2))[:-2]
            await self._reader.readuntil(b"\r\n")
        elif (length := int(headers.get("content-length", "0"))) > MAX_ANSWER_BYTES:
            raise HttpProblem("its answer is too large")
        elif length:
            yield await self._reader.readexactly(length)
        self.reusable = headers.get("connection", "").lower() != "close"

    async def whole(self, request: HttpRequest) -> HttpAnswer:
        """Send it; the answer."""
        status, headers = await self.begin(request)
        body = bytearray()
        async for piece in self.pieces(headers):
            body += piece
            if len(body) > MAX_ANSWER_BYTES:
                raise HttpProblem("its answer is too large")
        return HttpAnswer(status, headers, bytes(body))

    def close(self) -> None:
        self._writer.transport.abort()


class HttpConnections:
    """For the event loop's thread only. Requests may run side by side."""

    def __init__(
        self, endpoints: Sequence[str], tls: Callable[[], ssl.SSLContext | None], budget: float
    ) -> None:
        """`endpoints`: URLs. `tls`: for https, called for every new connection, so that renewed files count;
        it may raise OSError or ValueError. `budget`: seconds for one request, over all endpoints.
        """
        self._endpoints, self._tls, self._budget = list(endpoints), tls, budget
        self._idle: dict[str, list[_Connection]] = {}

    def end(self) -> float:
        """When a call that begins now must be over, for several requests that belong together."""
        return monotonic() + self._budget

    async def ask(self, request: HttpRequest, end: float | None = None) -> HttpAnswer:
        """The first answer below status 500. EndpointAway, EndpointDenied (a certificate was refused).

        A request may be carried out twice: all of ours can be. `end`: see there; None: a call of its own.
        """
        end = self.end() if end is None else end
        said, denied = list[str](), False
        endpoints = list(self._endpoints)
        for left, endpoint in zip(range(len(endpoints), 0, -1), endpoints, strict=True):
            try:
                async with asyncio.timeout(max(0.0, end - monotonic()) / left):
                    answer = await self._once(endpoint, request)
            except _PROBLEMS as error:
                denied = denied or isinstance(error, ssl.SSLError)
                said.append(f"{endpoint}: {_explained(endpoint, error)}")
            else:
                if answer.status < 500:
                    self._prefer(endpoint)
                    return answer
                said.append(f"{endpoint}: {answer.status} {answer.text}")
        raise (EndpointDenied if denied else EndpointAway)("; ".join(said))

    async def lines(self, request: HttpRequest) -> AsyncIterator[bytes]:
        """The lines of an answer that goes on, of one endpoint; it ends after STREAM_SECONDS.
        EndpointAway.
        """
        rest = b""
        async with self._dedicated() as connection:
            async with asyncio.timeout(self._budget):
                status, headers = await connection.begin(request)
            if status != 200:
                raise HttpProblem(f"status {status}")
            async for piece in _for_a_while(connection.pieces(headers)):
                *whole, rest = (rest + piece).split(b"\n")
                if len(rest) > MAX_LINE_BYTES:
                    raise HttpProblem("a line is too long")
                for line in whole:
                    yield line

    async def once(self, request: HttpRequest, seconds: float) -> HttpAnswer:
        """The answer of one endpoint to a request that waits there for so many seconds. EndpointAway."""
        async with self._dedicated() as connection, asyncio.timeout(self._budget + seconds):
            return await connection.whole(request)

    @contextlib.asynccontextmanager
    async def _dedicated(self) -> AsyncIterator[_Connection]:
        """A connection for one request that lasts. What goes wrong with it is EndpointAway, and the next
        one goes to another endpoint.
        """
        endpoint, connection = self._endpoints[0], None
        try:
            async with asyncio.timeout(self._budget):
                connection = await self._connect(endpoint)
            yield connection
        except _PROBLEMS as error:
            self._prefer_another(endpoint)
            raise EndpointAway(f"{endpoint}: {_explained(endpoint, error)}") from error
        finally:
            if connection is not None:
                connection.close()

    async def close(self) -> None:
        """Close what is idle."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    async def _once(self, endpoint: str, request: HttpRequest) -> HttpAnswer:
        """By a connection that is kept, and by a new one if that has ended meanwhile."""
        idle = self._idle.setdefault(endpoint, [])
        while idle:
            with contextlib.suppress(OSError, EOFError):
                return await self._through(endpoint, idle.pop(), request)
        return await self._through(endpoint, await self._connect(endpoint), request)

    async def _through(self, endpoint: str, connection: _Connection, request: HttpRequest) -> HttpAnswer:
        try:
            return await connection.whole(request)
        finally:
            idle = self._idle.setdefault(endpoint, [])
            if connection.reusable and len(idle) < MAX_IDLE_CONNECTIONS:
                idle.append(connection)
            else:
                connection.close()

    async def _connect(self, endpoint: str) -> _Connection:
        parts = urlsplit(endpoint)
        https = parts.scheme == "https"
        port = parts.port or (443 if https else 80)
        reader, writer = await asyncio.open_connection(
            parts.hostname, port, ssl=self._tls() if https else None, limit=1 << 16
        )
        raw: socket.socket = writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
        return _Connection(reader, writer, parts.netloc)

    def _prefer(self, endpoint: str) -> None:
        if self._endpoints[0] != endpoint:
            self._endpoints.remove(endpoint)
            self._endpoints.insert(0, endpoint)

    def _prefer_another(self, endpoint: str) -> None:
        if self._endpoints[0] == endpoint:
            self._endpoints.append(self._endpoints.pop(0))


async def _for_a_while(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces that come within STREAM_SECONDS."""
    end = monotonic() + STREAM_SECONDS
    while True:
        try:
            async with asyncio.timeout(end - monotonic()):
                piece = await anext(pieces)
        except (TimeoutError, StopAsyncIteration):
            return
        yield piece


def _explained(endpoint: str, error: BaseException) -> str:
    """What went wrong, in a few words."""
    text = str(error) or type(error).__name__
    match error:
        case TimeoutError():
            text = "no answer in time"
        case ssl.SSLCertVerificationError():
            text = f"its certificate is not accepted: {error.verify_message}"
        case ssl.SSLError():
            text = f"TLS: {error.reason or error}"
        case ConnectionResetError() | asyncio.IncompleteReadError() if endpoint.startswith("https:"):
            text = "it broke off, perhaps because it does not accept our certificate"
        case asyncio.IncompleteReadError():
            text = "it broke off"
        case asyncio.LimitOverrunError():
            text = "the headers of its answer are too large"
        case OSError() if (number := error.errno or 0) > 0:
            text = os.strerror(number)
    return text
