"""The port of the HTTP server is taken by another program: the daemon runs, says so, and takes it later."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from aiohttp import ClientSession, web

from supervisor.app.watchers.http_address import CONDITION, HttpAddress
from supervisor.control.sockets import Servers
from supervisor.core.events import Event, Noticed


async def alive(_request: web.Request) -> web.Response:
    return web.Response(text="alive")


async def test_a_busy_port_is_said_tried_again_and_taken() -> None:
    posted: list[Event] = []
    address, servers = HttpAddress(posted.append, retry_seconds=0.02), Servers()
    tries, tried_often = 0, asyncio.Event()

    async def listen() -> None:
        nonlocal tries
        tries += 1
        if tries >= 4:
            tried_often.set()
        app = web.Application()
        app.add_routes([web.get("/healthz", alive)])
        await servers.listen_tcp(app, "127.0.0.1", port, None)

    async with contextlib.AsyncExitStack() as closing:
        closing.push_async_callback(servers.close)
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            await address.open(f"127.0.0.1:{port}", listen)
            assert posted == [Noticed("")]
            assert f"127.0.0.1:{port}" in address.conditions[CONDITION].text
            assert "Address already in use" in address.conditions[CONDITION].text
            await servers.serve()
            running = asyncio.create_task(address.run())
            assert await asyncio.wait_for(tried_often.wait(), 5)
            assert not running.done()
            assert posted == [Noticed("")], "the same news once"
        await asyncio.wait_for(running, 5)
        assert (address.conditions, posted) == ({}, [Noticed(""), Noticed("")])
        async with ClientSession() as session, session.get(f"http://127.0.0.1:{port}/healthz") as answer:
            assert await answer.text() == "alive"


async def test_a_right_that_is_missing_ends_the_start() -> None:
    async def listen() -> None:
        raise PermissionError(13, "Permission denied")

    with pytest.raises(PermissionError):
        await HttpAddress(lambda _: None).open("127.0.0.1:80", listen)
