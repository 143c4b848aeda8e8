"""What people see while a tunnel is away: first a pause, then a clear no; and never a packet in clear."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from supervisor.core.network.plan import Manner, NetworkPlan
from tests.kernel.lab import (
    AT_ONCE,
    DEADLINE,
    DOWN,
    PLAN,
    SITE,
    SITE6,
    STAFF,
    STAFF6,
    TUNNEL,
    KernelWorld,
    PacketStream,
    UplinkCapture,
    ask,
    kernel,
    made_in,
    server,
    world,
)
from tests.kernel.test_gates import told
from tests.netns import Namespace

pytestmark = pytest.mark.root
OWN_SITE, OWN_SITE6 = "10.90.0.10", "fd00:90::10"


def pausing(plan: NetworkPlan) -> NetworkPlan:
    return replace(plan, lanes=tuple(replace(lane, manner=Manner.PAUSE) for lane in plan.lanes))


@pytest.fixture
def lab(netns: Namespace) -> Iterator[KernelWorld]:
    with world(netns) as made:
        yield made


async def test_during_a_pause_a_new_connection_waits_and_then_succeeds(lab: KernelWorld) -> None:
    lab.tunnel_down()
    async with kernel(pausing(DOWN)) as held, server(lab.site), server(lab.facilitator, 17300):
        waiting = [asyncio.create_task(ask(lab.staff, address)) for address in (SITE, OWN_SITE, OWN_SITE6)]
        done, _ = await asyncio.wait(waiting, timeout=1.2)
        assert not done
        lab.tunnel_up()
        await held.holds(pausing(PLAN))
        assert (await asyncio.gather(*waiting))[0] == TUNNEL


@pytest.mark.parametrize("address", [SITE, SITE6, OWN_SITE, OWN_SITE6])
async def test_a_tunnel_that_is_declared_down_answers_at_once(lab: KernelWorld, address: str) -> None:
    async with kernel(pausing(DOWN)) as held:
        with pytest.raises(TimeoutError):
            await ask(lab.staff, address, seconds=0.3)
        await held.holds(DOWN)
        start = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            await ask(lab.staff, address)
        assert time.monotonic() - start < AT_ONCE
        assert await told(lab, address, 53, STAFF6 if ":" in address else STAFF) == (
            (1, 0) if ":" in address else (3, 1)
        )


async def test_an_established_connection_survives_a_reconnect_of_three_seconds(lab: KernelWorld) -> None:
    async with kernel(pausing(PLAN)) as held, server(lab.site, answer=lambda sock: "hello"):
        loop = asyncio.get_running_loop()
        sock = made_in(lab.staff, socket.socket)
        await loop.sock_connect(sock, (SITE, 80))
        assert await loop.sock_recv(sock, 100) == b"hello\n"
        lab.tunnel_down()
        await held.holds(pausing(DOWN))
        await loop.sock_sendall(sock, b"still here")
        with pytest.raises(TimeoutError):  # nobody answers: no error, no end
            async with asyncio.timeout(3):
                await loop.sock_recv(sock, 100)
        lab.tunnel_up()
        await held.holds(pausing(PLAN))
        sock.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(DEADLINE):
            assert await loop.sock_recv(sock, 100) == b""  # the server saw our end and closed in order
        sock.close()


async def test_a_connection_into_a_tunnel_that_is_declared_down_is_reset(lab: KernelWorld) -> None:
    async with kernel(PLAN) as held, server(lab.site, answer=lambda sock: "hello"):
        loop = asyncio.get_running_loop()
        sock = made_in(lab.staff, socket.socket)
        await loop.sock_connect(sock, (SITE, 80))
        assert await loop.sock_recv(sock, 100) == b"hello\n"
        await held.holds(DOWN)
        await loop.sock_sendall(sock, b"?")
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(DEADLINE):
                await loop.sock_recv(sock, 100)
        sock.close()


async def test_nothing_leaks_while_manners_change(lab: KernelWorld) -> None:
    async with kernel(pausing(DOWN)) as held:
        capture, stream = UplinkCapture(lab), PacketStream(lab)
        for plan in (DOWN, pausing(DOWN), pausing(PLAN), pausing(DOWN), DOWN, PLAN) * 3:
            await held.holds(plan)
            await stream.packets(30)
        await stream.stop()
        assert await capture.leaked() == []
