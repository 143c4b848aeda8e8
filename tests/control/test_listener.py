"""Slow, idle and hostile connections, and a scraper that gets in all the same."""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path

import aiohttp
import pytest

from common.listener import Timeouts
from common.tls import ServerTls
from supervisor.control.api import HTTPApi
from supervisor.control.middleware import SECURITY_HEADERS
from supervisor.control.sockets import Servers
from tests.control.certificates import ControlAuthority
from tests.control.test_api import FakeDaemon

pytestmark = pytest.mark.slow

SOON = 30.0  # seconds that a loaded machine may take for something that is over in milliseconds


class BigDaemon(FakeDaemon):
    """Its metrics do not fit into any buffer."""

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        return b"x" * (64 << 20), "text/plain"


@pytest.fixture
async def serve():
    """Serves with these timeouts; gives the port."""
    servers = Servers()

    async def start(
        timeouts: Timeouts | None = None, tls: ssl.SSLContext | None = None, daemon: FakeDaemon | None = None
    ) -> int:
        await servers.listen_tcp(HTTPApi(daemon or FakeDaemon()).public(), "127.0.0.1", 0, tls, timeouts)
        await servers.serve()
        return int(servers.addresses()[-1][1])

    yield start
    await servers.close()


async def scrape(port: int, context: ssl.SSLContext | None = None) -> float:
    """Seconds that a scrape takes, on a connection of its own."""
    began = time.monotonic()
    async with aiohttp.ClientSession() as http, asyncio.timeout(SOON):
        address = f"{'http' if context is None else 'https'}://127.0.0.1:{port}/metrics"
        async with http.get(address, ssl=context or True) as answer:
            assert answer.status == 200
            await answer.read()
    return time.monotonic() - began


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """True as soon as the server ends the connection."""
    async with asyncio.timeout(SOON):
        try:
            while await reader.read(65536):
                pass
        except ConnectionError:
            pass
        return True


async def test_idle_tls_clients_do_not_delay_a_scrape(serve, tmp_path: Path) -> None:
    """Some say nothing at all, some begin a handshake and stop, some stop after it."""
    authority = ControlAuthority(tmp_path)
    tls = ServerTls(*authority.sign("CN=server", "server"))
    port = await serve(Timeouts(handshake_seconds=300.0, request_seconds=300.0), tls.context)
    alone = min([await scrape(port, authority.client()) for _ in range(5)])
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
    for _, writer in idle[20:]:
        writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01")  # the first bytes of a ClientHello
    idle += [await asyncio.open_connection("127.0.0.1", port, ssl=authority.client()) for _ in range(5)]
    beside = min([await scrape(port, authority.client()) for _ in range(5)])
    assert beside < alone + 0.5, "far less than any of the idle ones takes"
    for _, writer in idle:
        writer.transport.abort()


async def test_a_handshake_that_takes_too_long_is_closed(serve, tmp_path: Path) -> None:
    tls = ServerTls(*ControlAuthority(tmp_path).sign("CN=server", "server"))
    port = await serve(Timeouts(handshake_seconds=0.2), tls.context)
    reader, _ = await asyncio.open_connection("127.0.0.1", port)
    assert await is_closed(reader)


@pytest.mark.parametrize("said", [b"", b"GET /metrics HTTP/1.1\r\nHost: "])
async def test_a_request_that_takes_too_long_is_closed(serve, said: bytes) -> None:
    port = await serve(Timeouts(request_seconds=0.2))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(said)
    assert await is_closed(reader)


async def test_a_client_that_does_not_take_its_response_is_closed(serve) -> None:
    port = await serve(Timeouts(response_seconds=0.2), daemon=BigDaemon())
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    await writer.drain()
    got = 0
    async with asyncio.timeout(SOON):
        await asyncio.sleep(1.0)  # it takes nothing: five times as long as it may
        try:
            while data := await reader.read(1 << 20):
                got += len(data)
        except ConnectionError:
            pass
    assert got < 64 << 20


async def test_a_connection_may_be_idle_between_two_requests(serve) -> None:
    port = await serve(Timeouts(request_seconds=0.2))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(2):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await asyncio.wait_for(reader.readuntil(b"ok\n"), SOON)).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(0.5)
    writer.close()


async def test_at_the_limit_the_connection_that_is_idle_for_longest_is_closed(serve) -> None:
    port = await serve(Timeouts(connections=8, request_seconds=300.0))
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(50)]
    for _ in range(3):
        await scrape(port)
    assert await is_closed(idle[0][0])
    for _, writer in idle:
        writer.transport.abort()


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz", "/api/v1/status", "/nowhere"])
async def test_every_answer_has_the_security_headers(serve, path: str) -> None:
    port = await serve()
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}{path}") as answer:
        for name, value in SECURITY_HEADERS.items():
            assert answer.headers[name] == value or (name == "Content-Security-Policy" and path == "/"), name
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 10000 + b"\r\n\r\n", b"400"),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(500)) + b"\r\n",
            b"400",
        ),
        (b"POST /api/v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", b"405"),
    ],
)
async def test_requests_have_limits(serve, request_: bytes, status: bytes) -> None:
    port = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_)
    line = await asyncio.wait_for(reader.readline(), SOON)
    assert line.split()[1] == status
    writer.transport.abort()
