"""Who may enter a tunnel: the packets that are let in, those that are refused, how fast these learn it,
and that they are counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network

import pytest

from supervisor.core.network.access import AccessPolicy, AccessRule, Segment
from supervisor.kernel.counters import refused_packets
from tests.kernel.lab import (
    ACME,
    AT_ONCE,
    DEADLINE,
    OWN,
    PLAN,
    PRESENTED,
    SITE,
    SITE6,
    STAFF,
    STAFF6,
    KernelWorld,
    UplinkCapture,
    ask,
    kernel,
    made_in,
    server,
    world,
)
from tests.netns import Namespace
from tunnels.settings import Ports

pytestmark = pytest.mark.root
SUPPORT, SUPPORT6, GUEST, GUEST6 = "10.8.0.66", "fd00:8::66", "10.8.0.130", "fd00:8::130"
ENTRIES = (
    AccessRule("engineers", None),
    AccessRule("support", (Ports("tcp", 80, 80), Ports("udp", 5300, 5310))),
)
LIMITED = replace(
    PLAN,
    segments=(
        Segment("engineers", (ip_network("10.8.0.0/26"), ip_network("fd00:8::/123"))),
        Segment("support", (ip_network("10.8.0.64/26"), ip_network("fd00:8::60/123"))),
    ),
    gates=(AccessPolicy("acme", ACME, ENTRIES), AccessPolicy("own", OWN, ENTRIES)),
)
SO_EE = 11  # IP_RECVERR
ADMIN_PROHIBITED = {socket.AF_INET: (3, 13), socket.AF_INET6: (1, 1)}


@pytest.fixture
def lab(netns: Namespace) -> Iterator[KernelWorld]:
    with world(netns) as made:
        for address in (SUPPORT, GUEST):
            made.staff.run("ip", "addr", "add", f"{address}/24", "dev", "s0")
        station = json.loads(made.staff.run("ip", "-j", "link", "show", "s0").stdout)[0]["address"]
        for address in (SUPPORT6, GUEST6):
            made.staff.run("ip", "addr", "add", f"{address}/64", "dev", "s0", "nodad")
            # Known already: an interface that is so new still checks its own address, and does not ask for
            # others meanwhile.
            made.facilitator.run("ip", "neigh", "replace", address, "lladdr", station, "dev", "s1")
        yield made


async def refused(lab: KernelWorld, address: str, port: int, source: str) -> float:
    """Seconds until the connection was reset."""
    start = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        await ask(lab.staff, address, port, source=source)
    return time.monotonic() - start


async def test_only_allowed_segments_enter(lab: KernelWorld) -> None:
    capture = UplinkCapture(lab)
    async with kernel(LIMITED), server(lab.site), server(lab.site, 8080):
        for address, port, source in (
            (SITE, 80, STAFF),
            (SITE, 8080, STAFF),
            (PRESENTED, 80, STAFF),
            (SITE, 80, SUPPORT),
            (PRESENTED, 80, SUPPORT),
            (SITE6, 8080, STAFF6),
            (SITE6, 80, SUPPORT6),
        ):
            assert await ask(lab.staff, address, port, source=source)
        took = [
            await refused(lab, *who)
            for who in (
                (SITE, 8080, SUPPORT),
                (SITE, 80, GUEST),
                (PRESENTED, 8080, SUPPORT),
                (SITE6, 8080, SUPPORT6),
                (SITE6, 80, GUEST6),
            )
        ]
        assert max(took) < AT_ONCE
        assert refused_packets(LIMITED) == {
            ("acme", ""): 2,
            ("acme", "support"): 3,
            ("own", ""): 0,
            ("own", "support"): 0,
        }
    assert await capture.leaked() == []


async def test_a_proxy_takes_only_the_allowed(lab: KernelWorld) -> None:
    async with kernel(LIMITED), server(lab.facilitator, 17300):
        for address, source in (
            ("10.90.0.10", STAFF),
            ("10.90.0.10", SUPPORT),
            ("fd00:90::10", STAFF6),
            ("fd00:90::10", SUPPORT6),
        ):
            assert await ask(lab.staff, address, 80, source=source)
        for address, port, source in (
            ("10.90.0.10", 443, SUPPORT),
            ("10.90.0.10", 80, GUEST),
            ("fd00:90::10", 443, SUPPORT6),
            ("fd00:90::10", 80, GUEST6),
        ):
            await refused(lab, address, port, source)
        assert refused_packets(LIMITED)["own", "support"] == 2
        assert refused_packets(PLAN) == {}
        assert await ask(lab.facilitator, "10.90.0.10", 443, mark=OWN)  # our own probes are not staff


async def told(
    lab: KernelWorld, address: str, port: int, source: str, seconds: float = DEADLINE
) -> tuple[int, int] | None:
    """The ICMP error, as type and code, that a UDP packet gets; None: none within this time."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    level, option = (socket.IPPROTO_IPV6, 25) if family == socket.AF_INET6 else (socket.IPPROTO_IP, SO_EE)
    sock = made_in(lab.staff, lambda: socket.socket(family, socket.SOCK_DGRAM))
    try:
        sock.setsockopt(level, option, 1)
        sock.bind((source, 0))
        sock.connect((address, port))
        sock.send(b"?")
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.get_running_loop().sock_recv(sock, 10)
        try:
            _, ancillary, _, _ = sock.recvmsg(100, 500, socket.MSG_ERRQUEUE)
        except BlockingIOError:
            return None
        return ancillary[0][2][5], ancillary[0][2][6]  # struct sock_extended_err
    finally:
        sock.close()


async def test_others_than_tcp_are_told_that_it_is_forbidden(lab: KernelWorld) -> None:
    received = []
    async with kernel(LIMITED):
        service = made_in(lab.site, lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        service.bind(("", 5305))
        for address, family, sources in (
            (SITE, socket.AF_INET, (STAFF, SUPPORT, GUEST)),
            (SITE6, socket.AF_INET6, (STAFF6, SUPPORT6, GUEST6)),
        ):
            assert [await told(lab, address, 5305, source, seconds=0.1) for source in sources[:2]] == [
                None,
                None,
            ]
            assert await told(lab, address, 5305, sources[2]) == ADMIN_PROHIBITED[family]
            assert await told(lab, address, 5299, sources[1]) == ADMIN_PROHIBITED[family]
        with contextlib.suppress(BlockingIOError):
            while True:
                received.append(service.recv(10))
        service.close()
        assert received == [b"?"] * 4


async def test_ping_is_for_those_without_limits(lab: KernelWorld) -> None:
    async with kernel(LIMITED):
        for address, sources in ((SITE, (STAFF, SUPPORT, GUEST)), (SITE6, (STAFF6, SUPPORT6, GUEST6))):
            codes = [
                lab.staff.run("ping", "-c1", "-W5", "-I", source, address, check=False).returncode
                for source in sources
            ]
            assert [code == 0 for code in codes] == [True, False, False]


async def test_who_is_inside_stays_until_the_tunnel_reconnects(lab: KernelWorld) -> None:
    async with kernel(PLAN) as held, server(lab.site, answer=lambda sock: "hello"):
        loop = asyncio.get_running_loop()
        sock = made_in(lab.staff, socket.socket)
        sock.bind((GUEST, 0))
        await loop.sock_connect(sock, (SITE, 80))
        assert await loop.sock_recv(sock, 100) == b"hello\n"
        await held.holds(LIMITED)
        await refused(lab, SITE, 80, GUEST)
        await loop.sock_sendall(sock, b"still here")
        with pytest.raises(TimeoutError):  # neither reset nor ended
            async with asyncio.timeout(0.3):
                await loop.sock_recv(sock, 100)
        away = replace(LIMITED, lanes=(replace(LIMITED.lanes[0], up=False), LIMITED.lanes[1]))
        await held.holds(away)
        await loop.sock_sendall(sock, b"not any more")
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(DEADLINE):
                await loop.sock_recv(sock, 100)
        sock.close()


async def test_a_flow_does_not_move_to_a_tunnel_that_does_not_allow_it(lab: KernelWorld) -> None:
    spare = replace(PLAN.lanes[0], tunnel="b", number=173003)
    first = replace(PLAN, lanes=(*PLAN.lanes, spare), carries=PLAN.carries[:1])
    fallen = replace(
        first,
        lanes=(replace(PLAN.lanes[0], up=False), *first.lanes[1:]),
        carries=(replace(PLAN.carries[0], lane=173003),),
        segments=LIMITED.segments,
        gates=(AccessPolicy("b", 173003, ENTRIES[:1]),),
    )
    async with kernel(first) as held, server(lab.site, answer=lambda sock: "hello"):
        loop = asyncio.get_running_loop()
        sock = made_in(lab.staff, socket.socket)
        sock.bind((SUPPORT, 0))
        await loop.sock_connect(sock, (SITE, 80))
        assert await loop.sock_recv(sock, 100) == b"hello\n"
        await held.holds(fallen)
        await loop.sock_sendall(sock, b"?")
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(DEADLINE):
                await loop.sock_recv(sock, 100)
        sock.close()
        assert await ask(lab.staff, SITE, source=STAFF) == "hello"
        assert refused_packets(fallen)["b", "support"] >= 1
