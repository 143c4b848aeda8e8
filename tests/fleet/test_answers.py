"""Answers of a lock engine that are not as they should be: each is an engine that is away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from supervisor.fleet.consul import ConsulLock
from supervisor.fleet.etcd import EtcdLock
from supervisor.fleet.lock_service import LockService, LockServiceAway
from supervisor.http_connections import HttpConnections

BODIES = {
    "no JSON": b"<html>",
    "null": b"null",
    "a list of null": b"[null]",
    "an object of null": b'{"result": null, "responses": null, "Results": null, "kvs": [null], "ID": null}',
    "texts": b'{"result": {"TTL": "soon"}, "ID": 1, "TTL": "soon", "succeeded": true, "kvs": "none"}',
    "deep": b"[" * 200_000,
}
LARGE_HEADERS = b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000 + b"\r\n\r\n"


@contextlib.asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """A server that gives this answer to whatever it is asked; its URL."""

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(served, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def engines(url: str) -> tuple[LockService, LockService]:
    http = HttpConnections([url], lambda: None, 30.0)
    return EtcdLock(http, 5.0), ConsulLock(http, 10.0, "vpn1")


async def ask(engine: LockService) -> None:
    """Everything that reads something in the answer."""
    for call in (
        engine.open_lease(),
        engine.acquire("f/locks/acme", "vpn1", "1"),
        engine.get("f/locks/acme"),
        engine.list("f/"),
    ):
        with contextlib.suppress(LockServiceAway):
            await call


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_an_answer_that_is_not_understood_is_an_engine_that_is_away(body: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Consul-Index: soon\r\n\r\n" % len(body)
    async with answering(head + body) as url:
        etcd, consul = engines(url)
        for engine in (etcd, consul):
            await ask(engine)
            with pytest.raises(LockServiceAway):
                await engine.open_lease()
        with pytest.raises(LockServiceAway):
            await etcd.renew("1")
        with pytest.raises(LockServiceAway):
            async for _ in consul.watch("f/"):
                pass


async def test_headers_without_an_end_are_an_engine_that_is_away() -> None:
    async with answering(LARGE_HEADERS) as url:
        for engine in engines(url):
            with pytest.raises(LockServiceAway, match="headers of its answer are too large"):
                await engine.open_lease()
