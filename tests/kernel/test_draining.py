"""A lane that drains: what is in it goes on, what is new is refused at once, and the end of each flow is
heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from supervisor.core.events import FlowsCounted
from supervisor.core.network.flow_counting import FlowJob
from supervisor.kernel.conntrack.flow_counter import POLL_SECONDS, FlowWatch
from tests.kernel.lab import (
    ACME,
    AT_ONCE,
    DEADLINE,
    OWN,
    PLAN,
    SITE,
    SITE6,
    STAFF,
    STAFF6,
    KernelUnderTest,
    KernelWorld,
    ask,
    kernel,
    made_in,
    server,
    until,
    world,
)
from tests.kernel.test_gates import told
from tests.netns import Namespace

pytestmark = pytest.mark.root
OWN_SITE, OWN_SITE6 = "10.90.0.10", "fd00:90::10"
DRAINING = replace(PLAN, lanes=tuple(replace(lane, draining=True) for lane in PLAN.lanes))
LANES = {ACME: "acme", OWN: "own"}


@pytest.fixture
def lab(netns: Namespace) -> Iterator[KernelWorld]:
    with world(netns) as made:
        yield made


class StaffConnection:
    """A connection of staff that lives on."""

    def __init__(self, lab: KernelWorld, address: str, source: str | None = None) -> None:
        """`source`: the address that it comes from, one that the kernel would not choose."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._sock = made_in(lab.staff, lambda: socket.socket(family))
        self.address = address
        if source is not None:
            self._sock.bind((source, 0))

    async def __aenter__(self) -> StaffConnection:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._sock, (self.address, 80))
        assert await loop.sock_recv(self._sock, 200)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sock.close()

    async def lives(self) -> None:
        """A few bytes are sent and acknowledged."""
        await asyncio.get_running_loop().sock_sendall(self._sock, b"still here\n")
        await until(
            lambda: self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[24:28] == bytes(4)
        )  # tcpi_unacked

    async def is_reset(self, *, silent: bool) -> None:
        """It ends with a reset, although it sends nothing; not `silent`: as soon as it sends something."""
        loop = asyncio.get_running_loop()
        if not silent:
            await loop.sock_sendall(self._sock, b"still here\n")
        with pytest.raises(ConnectionResetError):
            await loop.sock_recv(self._sock, 200)


def remembered(lab: KernelWorld) -> list[str]:
    """The flows of the lane that the kernel knows."""
    return lab.facilitator.run("conntrack", "-L", "--mark", str(ACME)).stdout.splitlines()


@contextlib.asynccontextmanager
async def watching(held: KernelUnderTest, idle: float = 60.0) -> AsyncIterator[dict[str, int]]:
    """What the counter says is left, by tunnel."""
    left: dict[str, int] = {}

    def post(event: object) -> None:
        assert isinstance(event, FlowsCounted)
        left[event.tunnel] = event.left

    watch = FlowWatch(post, held.network.settled, lambda text, details: None)
    watch.set({lane: FlowJob(name, idle) for lane, name in LANES.items()})
    try:
        yield left
    finally:
        watch.close()


@pytest.mark.parametrize("address", [SITE, SITE6, OWN_SITE, OWN_SITE6])
async def test_the_old_goes_on_and_the_new_is_refused_at_once(lab: KernelWorld, address: str) -> None:
    async with (
        kernel(PLAN) as held,
        server(lab.site),
        server(lab.facilitator, 17300),
        StaffConnection(lab, address) as stream,
    ):
        before = await held.network.read()
        await held.holds(DRAINING)
        changed = (await held.network.read()).elements ^ before.elements
        assert sorted(map(str, changed)) == [f"element draining {ACME}", f"element draining {OWN}"], (
            "nothing else moves"
        )
        await stream.lives()
        start = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            await ask(lab.staff, address)
        assert time.monotonic() - start < AT_ONCE
        await stream.lives()
        await held.holds(PLAN)
        assert await ask(lab.staff, address)


@pytest.mark.parametrize(
    ("address", "source", "forbidden"), [(SITE, STAFF, (3, 13)), (SITE6, STAFF6, (1, 1))]
)
async def test_what_is_not_tcp_is_told_too(
    lab: KernelWorld, address: str, source: str, forbidden: tuple[int, int]
) -> None:
    async with kernel(DRAINING):
        assert await told(lab, address, 53, source) == forbidden


@pytest.mark.parametrize("address", [SITE, SITE6])
async def test_datagrams_of_a_flow_that_is_under_way_go_on(lab: KernelWorld, address: str) -> None:
    """Nobody answers them, so connection tracking calls each of them new."""
    loop, family = asyncio.get_running_loop(), socket.AF_INET6 if ":" in address else socket.AF_INET
    async with kernel(PLAN) as held:
        with (
            made_in(lab.site, lambda: socket.socket(family, socket.SOCK_DGRAM)) as site,
            made_in(lab.staff, lambda: socket.socket(family, socket.SOCK_DGRAM)) as staff,
        ):
            site.bind((address, 53))
            staff.connect((address, 53))
            for plan in (PLAN, DRAINING):
                await held.holds(plan)
                for word in (b"one", b"two"):
                    staff.send(word)
                    async with asyncio.timeout(DEADLINE):
                        assert await loop.sock_recv(site, 10) == word


async def test_a_stream_outlives_the_tunnels_device(lab: KernelWorld) -> None:
    """The assigned address exists in source NAT only, so the kernel does not forget its flows with the
    device.
    """
    async with kernel(DRAINING) as held, server(lab.site):
        await held.holds(PLAN)
        async with StaffConnection(lab, SITE) as stream:
            await held.holds(DRAINING)
            async with watching(held) as left:
                await until(lambda: left.get("acme") == 1)
                lab.tunnel_down()
                await until(lambda: held.lost)
                assert remembered(lab)
                left.clear()
                await until(lambda: left.get("acme") == 1)
                lab.tunnel_up()
                await held.in_place()
                await stream.lives()
                left.clear()
                await until(lambda: left.get("acme") == 1)


async def test_the_end_of_each_flow_is_heard(lab: KernelWorld) -> None:
    async with kernel(PLAN) as held, server(lab.site), server(lab.facilitator, 17300):
        async with StaffConnection(lab, SITE), StaffConnection(lab, OWN_SITE):
            async with StaffConnection(lab, SITE6):
                await held.holds(DRAINING)
                async with watching(held) as left:
                    await until(lambda: left == {"acme": 2, "own": 1})
            async with watching(held) as left:
                await until(lambda: left == {"acme": 1, "own": 1})
        async with watching(held) as left:
            await until(lambda: left == {"acme": 0, "own": 0})


@pytest.mark.timed
async def test_it_is_heard_at_once(lab: KernelWorld) -> None:
    async with kernel(PLAN) as held, server(lab.site), contextlib.AsyncExitStack() as open_streams:
        await open_streams.enter_async_context(StaffConnection(lab, SITE))
        await held.holds(DRAINING)
        async with watching(held) as left:
            await until(lambda: left.get("acme") == 1)
            start = time.monotonic()
            await open_streams.aclose()
            await until(lambda: left.get("acme") == 0)
            assert time.monotonic() - start < POLL_SECONDS / 5


async def test_a_silent_flow_holds_up_nothing(lab: KernelWorld) -> None:
    async with kernel(PLAN) as held, server(lab.site), StaffConnection(lab, SITE):
        await held.holds(DRAINING)
        async with watching(held, idle=1.0) as left:
            await until(lambda: left.get("acme") == 0)
