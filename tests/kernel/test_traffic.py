"""Real packets through the real kernel: who may pass, as whom, and who may not."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from supervisor.core.network.plan import NetworkPlan
from tests.kernel.lab import (
    ACME,
    DEADLINE,
    DOWN,
    HIDDEN,
    OWN,
    PLAN,
    PRESENTED,
    SITE,
    SITE6,
    STAFF,
    TUNNEL,
    TUNNEL6,
    KernelWorld,
    UplinkCapture,
    answer_for,
    ask,
    kernel,
    made_in,
    server,
    until,
    world,
)
from tests.netns import Namespace, link

pytestmark = pytest.mark.root
NO_WAY = (OSError, TimeoutError)
ORIGINAL_DESTINATION = 80


@pytest.fixture
def lab(netns: Namespace) -> Iterator[KernelWorld]:
    with world(netns) as made:
        yield made


async def test_staff_reach_the_site_behind_the_tunnels_address(lab: KernelWorld) -> None:
    async with kernel(DOWN) as held, server(lab.site):
        for address in (SITE, SITE6):
            with pytest.raises(NO_WAY):
                await ask(lab.staff, address, seconds=0.3)
        await held.holds(PLAN)
        assert await ask(lab.staff, SITE) == TUNNEL
        assert TUNNEL6 in await ask(lab.staff, SITE6)


async def test_who_is_not_staff_stays_outside(lab: KernelWorld) -> None:
    capture = UplinkCapture(lab)
    async with kernel(PLAN), server(lab.site):
        with pytest.raises(NO_WAY):
            await ask(lab.staff, SITE, source="10.9.0.5", seconds=0.5)
        with pytest.raises(NO_WAY):
            await ask(lab.facilitator, SITE, seconds=0.5)  # the host itself, without a mark
        assert await ask(lab.facilitator, SITE, mark=ACME) == TUNNEL
    assert await capture.leaked() == []


async def test_networks_with_other_names_are_mapped_both_ways(lab: KernelWorld) -> None:
    async with (
        kernel(PLAN),
        server(lab.site, answer=lambda sock: f"{sock.getsockname()[0]} {sock.getpeername()[0]}"),
    ):
        assert await ask(lab.staff, PRESENTED) == f"10.0.0.10 {TUNNEL}"
        assert await ask(lab.facilitator, PRESENTED, mark=ACME) == f"10.0.0.10 {TUNNEL}"
        with pytest.raises(NO_WAY):
            await ask(lab.facilitator, PRESENTED, seconds=0.5)


async def test_segments_fit_into_the_tunnel_in_both_directions(lab: KernelWorld) -> None:
    def segment(sock: socket.socket) -> str:
        return str(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG))

    timestamps = 12
    async with kernel(PLAN), server(lab.site, answer=segment):
        for address, headers in ((SITE, 40), (SITE6, 60)):
            fits = str(1300 - headers - timestamps)
            assert await ask(lab.staff, address) == fits  # what the site may send
            assert await ask(lab.staff, address, look=segment) == fits  # what staff may send


async def test_nobody_behind_a_tunnel_opens_a_connection(lab: KernelWorld) -> None:
    async with kernel(PLAN), server(lab.staff), server(lab.facilitator, 2222), server(lab.facilitator, 17300):
        for address, port in (
            (STAFF, 80),
            (TUNNEL, 2222),
            (TUNNEL, 17300),
            (TUNNEL6, 2222),
            ("192.0.2.1", 80),
        ):
            with pytest.raises(NO_WAY):
                await ask(lab.site, address, port, seconds=0.3)
        # Not even with a staff member's address towards somebody else's networks.
        lab.site.run("ip", "addr", "add", "10.8.0.77/32", "dev", "acme")
        for address in ("10.90.0.10", SITE):
            with pytest.raises(NO_WAY):
                await ask(lab.site, address, 80, source="10.8.0.77", seconds=0.3)


def _asked_for(sock: socket.socket) -> str:
    if sock.family == socket.AF_INET6 and "." not in sock.getsockname()[0]:
        raw = sock.getsockopt(socket.IPPROTO_IPV6, ORIGINAL_DESTINATION, 28)
        return f"{socket.inet_ntop(socket.AF_INET6, raw[8:24])} {struct.unpack_from('>H', raw, 2)[0]}"
    raw = sock.getsockopt(socket.IPPROTO_IP, ORIGINAL_DESTINATION, 16)
    return f"{socket.inet_ntoa(raw[4:8])} {struct.unpack_from('>H', raw, 2)[0]}"


async def test_a_proxy_is_handed_its_connections_and_no_others(lab: KernelWorld) -> None:
    async with kernel(PLAN), server(lab.facilitator, 17300, _asked_for):
        for address in ("10.90.0.10", "fd00:90::10"):
            assert await ask(lab.staff, address, 8443) == f"{address} 8443"
            assert await ask(lab.facilitator, address, 8443, mark=OWN) == f"{address} 8443"
        direct = (
            (lab.staff, "10.8.0.1"),
            (lab.staff, "fd00:8::1"),
            (lab.facilitator, "127.0.0.1"),
            (lab.uplink, "192.0.2.2"),
        )
        for namespace, address in direct:
            with pytest.raises(NO_WAY):
                await ask(namespace, address, 17300, seconds=0.3)
        with pytest.raises(NO_WAY):
            await ask(lab.facilitator, "10.90.0.10", 8443, seconds=0.3)


@pytest.mark.parametrize("address", ["10.90.0.10", "fd00:90::10"])
async def test_a_proxy_takes_only_tcp_and_the_host_takes_nothing_for_it(
    lab: KernelWorld, address: str
) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    capture = UplinkCapture(lab)
    async with kernel(PLAN):
        service = made_in(lab.facilitator, lambda: socket.socket(family, socket.SOCK_DGRAM))
        service.bind(("", 5300))
        client = made_in(lab.staff, lambda: socket.socket(family, socket.SOCK_DGRAM))
        client.connect((address, 5300))
        client.send(b"?")
        loop = asyncio.get_running_loop()
        with pytest.raises(OSError):
            async with asyncio.timeout(2):
                await loop.sock_recv(client, 10)
        with pytest.raises(BlockingIOError):
            service.recv(10)
        service.close()
        client.close()
    assert await capture.leaked() == []


async def test_an_established_flow_survives_a_reconnect_that_keeps_its_address(lab: KernelWorld) -> None:
    async with kernel(PLAN) as held, server(lab.site, answer=lambda sock: "hello"):
        loop = asyncio.get_running_loop()
        sock = made_in(lab.staff, socket.socket)
        await loop.sock_connect(sock, (SITE, 80))
        assert await loop.sock_recv(sock, 100) == b"hello\n"
        await held.holds(DOWN)
        await held.holds(PLAN)
        await loop.sock_sendall(sock, b"still here")
        sock.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(DEADLINE):
            assert await loop.sock_recv(sock, 100) == b""  # the server saw our end and closed in order
        sock.close()


SPARE = replace(
    PLAN.lanes[0],
    tunnel="b",
    number=173003,
    device="t-b",
    addresses=(ip_address("10.79.0.2"), ip_address("fd00:79::2")),
)
OURS = tuple(carry for carry in PLAN.carries if carry.lane == ACME)
PAIR = replace(PLAN, lanes=(*PLAN.lanes, SPARE), carries=OURS)
MOVED = replace(PAIR, carries=tuple(replace(carry, lane=SPARE.number) for carry in OURS))
FALLEN = replace(MOVED, lanes=(DOWN.lanes[0], PLAN.lanes[1], SPARE))
BEHIND = {"10.79.0.2", "fd00:79::2"}


def second_tunnel(lab: KernelWorld) -> None:
    """`t-b` leads to the same site."""
    link(lab.facilitator, "t-b", lab.site, "spare")
    answer_for(lab.facilitator, "t-b", lab.site, "spare", *BEHIND)
    for address in ("10.79.0.1/24", "fd00:79::1/64 nodad"):
        lab.site.run("ip", "addr", "add", *address.split(), "dev", "spare")
    lab.site.run(
        "ip", "addr", "add", f"{SITE6}/128", "dev", "spare", "nodad"
    )  # or it would not answer there who has it


async def test_flows_of_a_lane_that_is_down_move_to_the_one_that_carries_now(lab: KernelWorld) -> None:
    """Failover: old flows stay while their lane is up; when it goes down they follow."""
    second_tunnel(lab)
    site = made_in(lab.site, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    site.bind(("", 5300))
    client = made_in(lab.staff, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    loop = asyncio.get_running_loop()

    numbers = map(str, itertools.count())

    async def seen_as() -> str:
        async with asyncio.timeout(DEADLINE):
            while True:
                number = next(numbers).encode()
                client.sendto(number, (SITE, 5300))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        said, sender = await loop.sock_recvfrom(site, 10)
                        if said == number:
                            return str(sender[0])

    async with kernel(PAIR) as held:
        assert await seen_as() == TUNNEL
        await held.holds(MOVED)
        assert await seen_as() == TUNNEL  # drained, not cut
        await held.holds(FALLEN)
        assert await seen_as() in BEHIND
    site.close()
    client.close()


class LateEcho(asyncio.DatagramProtocol):
    """Answers late, so that answers are on their way all the time; knows who asked."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        self.seen.add(source[0])
        asyncio.get_running_loop().call_later(0.03, self._transport.sendto, data, source)


class EchoReplies(asyncio.DatagramProtocol):
    """What came back."""

    def __init__(self) -> None:
        self.numbers: set[bytes] = set()

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        self.numbers.add(data)


@pytest.mark.parametrize(("address", "real"), [(SITE, SITE), (SITE6, SITE6), (PRESENTED, HIDDEN)])
@pytest.mark.parametrize("second", [FALLEN, replace(FALLEN, lanes=FALLEN.lanes[1:])], ids=["down", "removed"])
async def test_nothing_is_lost_where_flows_move_between_two_working_tunnels(
    lab: KernelWorld, address: str, real: str, second: NetworkPlan
) -> None:
    second_tunnel(lab)
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    site, client = (
        made_in(namespace, lambda: socket.socket(family, socket.SOCK_DGRAM))
        for namespace in (lab.site, lab.staff)
    )
    site.bind((real, 5300))
    here, echo = await loop.create_datagram_endpoint(LateEcho, sock=site)
    client.connect((address, 5300))
    there, answers = await loop.create_datagram_endpoint(EchoReplies, sock=client)
    sent = set()

    async def send(count: int) -> None:
        for _ in range(count):
            sent.add(b"%d" % len(sent))
            there.sendto(b"%d" % (len(sent) - 1))
            await asyncio.sleep(0.002)

    async with kernel(PAIR) as held:
        await send(30)
        held.network.set(second)
        await send(150)
        await held.holds(second)
        await send(30)
        await until(lambda: answers.numbers == sent)
    assert echo.seen & BEHIND
    assert echo.seen & {TUNNEL, TUNNEL6}
    here.close()
    there.close()
