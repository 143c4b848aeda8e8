"""Who answered users' packets in a lane, as connection tracking has it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from supervisor.kernel.conntrack.replies import FRESH_SECONDS, LaneReplies
from tests.kernel.lab import ACME, DEADLINE, OWN, PLAN, SITE, SITE6, KernelWorld, ask, kernel, server, world
from tests.netns import Namespace
from tunnels.networks import IPAddress

pytestmark = pytest.mark.root


@pytest.fixture
def lab(netns: Namespace) -> Iterator[KernelWorld]:
    with world(netns) as made:
        yield made


async def replied(replies: LaneReplies, lane: int, since: float) -> set[IPAddress]:
    """Ask until a look at the kernel shows somebody; nobody after several fresh looks."""
    end = time.monotonic() + 4 * FRESH_SECONDS
    while time.monotonic() < end:
        if found := set(await replies(lane, since)):
            return found
    return set()


@pytest.mark.parametrize("address", [SITE, SITE6])
async def test_who_answers_a_connection_of_staff_is_named_once(lab: KernelWorld, address: str) -> None:
    async with kernel(PLAN), server(lab.site):
        replies, since = LaneReplies(), time.monotonic()
        assert await replied(replies, ACME, since) == set()
        assert await ask(lab.staff, address)
        assert await replied(replies, ACME, since) == {ip_address(address)}
        assert await replied(replies, ACME, since) == set()


async def test_what_came_back_before_the_silence_shows_nothing(lab: KernelWorld) -> None:
    async with kernel(PLAN), server(lab.site):
        replies = LaneReplies()
        assert await replied(replies, ACME, time.monotonic()) == set()
        assert await ask(lab.staff, SITE)
        silent = time.monotonic()
        assert await replied(replies, ACME, silent) == set()
        assert await ask(lab.staff, SITE)
        assert await replied(replies, ACME, silent) == {ip_address(SITE)}


async def test_connections_that_nobody_answers_or_of_other_lanes_show_nothing(lab: KernelWorld) -> None:
    async with kernel(PLAN), server(lab.site):
        replies, since = LaneReplies(), time.monotonic()
        assert await replied(replies, ACME, since) == set()
        with pytest.raises((OSError, TimeoutError)):
            await ask(lab.staff, SITE, port=81, seconds=min(1.0, DEADLINE))
        assert await replied(replies, ACME, since) == set()
        assert await ask(lab.staff, SITE)
        assert await replied(replies, OWN, since) == set()
