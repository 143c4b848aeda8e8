"""What went through each lane: flows, and the bytes of what a proxy carries, as the kernel counts them
without being asked.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from supervisor.core.network.traffic import Carried
from supervisor.kernel.counters import LaneCounts
from tests.kernel.lab import (
    ACME,
    DOWN,
    OWN,
    PLAN,
    SITE,
    SITE6,
    KernelWorld,
    ask,
    kernel,
    made_in,
    server,
    world,
)
from tests.netns import Namespace

pytestmark = pytest.mark.root


@pytest.fixture
def lab(netns: Namespace) -> Iterator[KernelWorld]:
    with world(netns) as made:
        yield made


def counts() -> dict[int, Carried]:
    return dict(LaneCounts()())


async def test_each_flow_is_counted_once_in_the_lane_that_it_enters(lab: KernelWorld) -> None:
    async with kernel(PLAN), server(lab.site):
        assert counts() == {
            ACME: Carried(0),
            ACME + 1000: Carried(0),
            OWN: Carried(0, 0, 0),
            OWN + 1000: Carried(0, 0, 0),
        }
        for address in (SITE, SITE6, SITE):
            await ask(lab.staff, address)
        with made_in(lab.staff, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            sender.bind(("", 5000))
            for _ in range(10):
                sender.sendto(b"nobody answers", (SITE, 9))
        assert counts()[ACME] == Carried(4)


async def test_what_knocks_at_a_lane_that_is_down_does_not_enter(lab: KernelWorld) -> None:
    async with kernel(DOWN):
        with made_in(lab.staff, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            for _ in range(10):
                sender.sendto(b"x", (SITE, 9))
        assert counts()[ACME] == Carried(0)


async def test_a_proxys_bytes_are_counted_both_ways_and_survive_a_reconnect(lab: KernelWorld) -> None:
    size = 100_000
    async with kernel(PLAN) as held, server(lab.facilitator, 17300, lambda sock: "x" * size):
        await ask(lab.staff, "10.90.0.1")
        first = counts()[OWN]
        assert first.flows == 1
        assert first.sent is not None
        assert first.received is not None
        assert 100 < first.sent < 50_000
        assert first.received > 100
        await held.holds(DOWN)
        await held.holds(PLAN)
        assert counts()[OWN] == first
        await ask(lab.staff, "10.90.0.1")
        assert counts()[OWN].flows == 2


async def test_without_a_table_nothing_is_said(netns: Namespace) -> None:
    assert counts() == {}
