"""The port of a proxy: only redirected connections come there, only the daemon's own client gets them, and
no source gets all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from supervisor.kernel.inspect.packet_path import refused
from tests.kernel.lab import (
    OWN,
    PLAN,
    SO_MARK,
    STAFF,
    STAFF6,
    KernelWorld,
    ask,
    kernel,
    listener,
    made_in,
    server,
    world,
)
from tests.netns import Namespace

pytestmark = pytest.mark.root

PORT, SHARE = 17300, 480
ADDRESS, ADDRESS6, OTHER, OTHER6 = "10.90.0.10", "fd00:90::10", "10.8.0.6", "fd00:8::6"
PHASE = 3.0  # seconds for which somebody else has the port
SOURCE_PORT = 40_999  # of a connection that uses an entry of connection tracking again


@pytest.fixture
def lab(netns: Namespace) -> Iterator[KernelWorld]:
    with world(netns) as made:
        made.staff.run("ip", "address", "add", f"{OTHER}/24", "dev", "s0")
        made.staff.run("ip", "address", "add", f"{OTHER6}/64", "dev", "s0", "nodad")
        yield made


async def answers(lab: KernelWorld) -> list[str]:
    """Who gets an answer: staff and the daemon's probes, in both families, and those who connect to the
    port directly.
    """
    asked = {
        "staff": (lab.staff, ADDRESS, 80, 0),
        "staff 6": (lab.staff, ADDRESS6, 80, 0),
        "probe": (lab.facilitator, ADDRESS, 80, OWN),
        "probe 6": (lab.facilitator, ADDRESS6, 80, OWN),
        "direct": (lab.staff, "10.8.0.1", PORT, 0),
        "local": (lab.facilitator, "127.0.0.1", PORT, 0),
    }
    got = []
    for name, (namespace, address, port, mark) in asked.items():
        with contextlib.suppress(OSError, TimeoutError):
            await ask(namespace, address, port, mark=mark, seconds=2.0)
            got.append(name)
    return got


async def test_only_a_transparent_socket_gets_redirected_connections(lab: KernelWorld) -> None:
    async with kernel(PLAN):
        async with server(lab.facilitator, PORT):
            assert await answers(lab) == ["staff", "staff 6", "probe", "probe 6"]
        with rivals(lab) as rival:
            assert await answers(lab) == []
            assert taken(rival) == 0
        before = await refused()
        assert before["proxied"] > 0


@contextlib.contextmanager
def rivals(lab: KernelWorld) -> Iterator[list[socket.socket]]:
    """The port in the hands of a program that could not mark its sockets."""
    made = [
        made_in(lab.facilitator, lambda f=f: listener(PORT, f, transparent=False))
        for f in (socket.AF_INET, socket.AF_INET6)
    ]
    try:
        yield made
    finally:
        for each in made:
            each.close()


def taken(listeners: list[socket.socket]) -> int:
    """How many connections reached these."""
    count = 0
    for each in listeners:
        with contextlib.suppress(BlockingIOError):
            while True:
                each.accept()[0].close()
                count += 1
    return count


async def test_whoever_takes_the_port_of_a_dead_client_gets_nothing(lab: KernelWorld) -> None:
    """While connections that it had are still known, with one that comes from the same source port, and
    with new ones.
    """
    async with kernel(PLAN):
        async with server(lab.facilitator, PORT):
            held = [await connected(lab, port) for port in range(SOURCE_PORT, SOURCE_PORT - 20, -1)]
        with rivals(lab) as rival:
            ends, asked = time.monotonic() + PHASE, 0
            while time.monotonic() < ends:
                for sock in held:
                    with contextlib.suppress(OSError):
                        sock.send(b"secret of staff")
                for port in (SOURCE_PORT - asked % 20, 0):
                    with contextlib.suppress(OSError, TimeoutError):
                        (await connected(lab, port)).close()
                asked += 1
            print(f"{asked} requests, {taken(rival)} reached it")
            assert asked > 20
            assert taken(rival) == 0
        for sock in held:
            sock.close()


async def connected(lab: KernelWorld, port: int = 0) -> socket.socket:
    """A connection of staff to the proxy, from this port."""
    sock = made_in(lab.staff, socket.socket)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((STAFF, port))
        async with asyncio.timeout(1.0):
            await asyncio.get_running_loop().sock_connect(sock, (ADDRESS, 80))
    except BaseException:
        sock.close()
        raise
    return sock


@contextlib.asynccontextmanager
async def holding(
    lab: KernelWorld, source: str, address: str, count: int, mark: int = 0
) -> AsyncIterator[list[socket.socket]]:
    """Up to so many connections, of those that are let in."""
    loop, held = asyncio.get_running_loop(), []
    try:
        for _ in range(count):
            namespace = lab.facilitator if mark else lab.staff
            sock = made_in(
                namespace, lambda: socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            )
            if mark:
                sock.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
            else:
                sock.bind((source, 0))
            try:
                await loop.sock_connect(sock, (address, 80))
            except ConnectionRefusedError:
                sock.close()
            else:
                held.append(sock)
        yield held
    finally:
        for sock in held:
            sock.close()


@pytest.mark.parametrize(
    ("source", "other", "address"), [(STAFF, OTHER, ADDRESS), (STAFF6, OTHER6, ADDRESS6)], ids=["4", "6"]
)
async def test_one_source_gets_its_share_and_others_get_theirs(
    lab: KernelWorld, source: str, other: str, address: str
) -> None:
    async with kernel(PLAN), server(lab.facilitator, PORT):
        async with holding(lab, source, address, SHARE + 20) as held:
            assert len(held) == SHARE
            assert (await refused())["crowd"] == 20
            async with (
                holding(lab, other, address, 30) as others,
                holding(lab, "", address, 5, mark=OWN) as probes,
            ):
                assert (len(others), len(probes)) == (30, 5)
        async with holding(lab, source, address, 50) as again:  # what is over counts no more
            assert len(again) == 50
