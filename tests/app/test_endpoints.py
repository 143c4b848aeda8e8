"""Whether a gateway answers, and what its silence means: asked for real on loopback, for tunnels that are
made up.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import pytest

from supervisor.app.watchers.endpoints import (
    FAILING_PROBE_SECONDS,
    SILENT_AFTER_PROBES,
    SILENT_PROBE_SECONDS,
    WORKING_PROBE_SECONDS,
    EndpointWatch,
    ProbedGateway,
    ProbeRecord,
)
from supervisor.core.events import EndpointSeen, Event
from supervisor.core.snapshot import Snapshot, Uplink
from supervisor.core.state import Failure, Health, Phase, Reach, Session, TunnelState
from supervisor.probes.gateway import answers
from tests.fakes import KIND
from tests.netns import Namespace
from tests.settings import configured
from tests.states import but, tunnel_state
from tunnels.base import Reason
from tunnels.settings import Probe, Tunnel

pytestmark = pytest.mark.root

TUNNEL = configured(
    Tunnel,
    name="acme",
    kind="test",
    destinations=("10.77.0.0/24",),
    probe=Probe(targets=("icmp://10.77.0.1",)),
)
WELL = tunnel_state(phase=Phase.UP, health=Health.HEALTHY, session=Session(1, peer="203.0.113.2"))
SICK = but(
    WELL,
    phase=Phase.BACKOFF,
    health=Health.UNKNOWN,
    session=Session(2),
    failure=Failure(Reason.PEER_TIMEOUT, "x", 0.0),
)


@dataclass
class EndpointWorld:
    """The snapshot that the watch sees, and what it says; its events change the state as the engine does."""

    state: TunnelState = WELL
    uplink: Uplink = Uplink()
    told: list[Reach] = field(default_factory=list)

    def snapshot(self) -> Snapshot:
        return Snapshot({"acme": (TUNNEL, self.state)}, 0.0, uplink=self.uplink)

    def post(self, event: Event) -> None:
        assert isinstance(event, EndpointSeen)
        self.told.append(event.reach)
        self.state = replace(self.state, endpoint=event.reach)

    async def becomes(self, *reaches: Reach) -> None:
        async with asyncio.timeout(60):
            while self.told != list(reaches):
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def watched(story: EndpointWorld, port: int | None = None) -> AsyncIterator[EndpointWatch]:
    watch = EndpointWatch(
        story.snapshot,
        {"test": replace(KIND, tcp_port=lambda tunnel: port)},
        story.post,
        asyncio.Event(),
        0.02,
        0.02,
    )
    task = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.wait([task])


def record(watch: EndpointWatch) -> ProbeRecord:
    return watch.records.get(ProbedGateway("203.0.113.2", None), ProbeRecord())


@pytest.fixture
def host(netns: Namespace) -> Namespace:
    """It has the gateway's address itself."""
    netns.run("sh", "-c", "echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range")
    netns.run("ip", "address", "add", "203.0.113.2/32", "dev", "lo")
    return netns


def mute(host: Namespace) -> None:
    host.run(
        "nft", "add table inet t; add chain inet t i { type filter hook input priority 0; policy drop; }"
    )


async def test_who_answered_before_and_does_not_any_more_is_silent(host: Namespace) -> None:
    story = EndpointWorld()
    async with watched(story) as watch:
        while not record(watch).ever_answered:
            await asyncio.sleep(0.01)
        story.state = SICK
        await story.becomes(Reach.ANSWERS)
        mute(host)
        await story.becomes(Reach.ANSWERS, Reach.SILENT)  # the first is what was known from before
        story.state = but(WELL, endpoint=Reach.SILENT)
        await story.becomes(Reach.ANSWERS, Reach.SILENT, Reach.UNKNOWN)


async def test_silence_of_one_that_never_answered_says_nothing(host: Namespace) -> None:
    mute(host)
    story = EndpointWorld(but(SICK, session=Session(2, peer="203.0.113.2")))
    async with watched(story) as watch:
        while record(watch).unanswered < SILENT_AFTER_PROBES:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert story.told == []


@pytest.mark.parametrize("listens", [True, False])
async def test_a_port_of_tcp_answers_even_by_a_refusal_and_must_answer(
    host: Namespace, listens: bool
) -> None:
    server = (
        await asyncio.start_server(lambda reader, writer: None, "203.0.113.2", 4443)
        if listens
        else contextlib.AsyncExitStack()
    )
    async with server:
        story = EndpointWorld(but(SICK, session=Session(2, peer="203.0.113.2")))
        async with watched(story, 4443):
            await story.becomes(Reach.ANSWERS)
    mute(host)
    story = EndpointWorld(but(SICK, session=Session(2, peer="203.0.113.2")))
    async with watched(story, 4443):
        await story.becomes(Reach.SILENT)


async def test_nobody_is_asked_while_the_uplink_is_dead_or_in_doubt(host: Namespace) -> None:
    for uplink in (Uplink(alive=False), Uplink(doubted=True)):
        story = EndpointWorld(but(SICK, session=Session(2, peer="203.0.113.2")), uplink)
        async with watched(story, 4443) as watch:
            await asyncio.sleep(0.2)
            assert (watch.records, story.told) == ({}, [])


async def test_a_stranger_does_not_knock_all_the_time() -> None:
    udp, tcp = ProbedGateway("203.0.113.2", None), ProbedGateway("203.0.113.2", 443)
    for gateway, wrong, unanswered in itertools.product((udp, tcp), (True, False), (0, 1, 2, 9)):
        due = ProbeRecord(1000.0, unanswered, suspected=wrong).due_at(gateway, wrong, FAILING_PROBE_SECONDS)
        pause = due - 1000.0
        known = WORKING_PROBE_SECONDS if gateway is udp else float("inf")
        answering = FAILING_PROBE_SECONDS if gateway is udp or unanswered == 0 else SILENT_PROBE_SECONDS
        suspect = -1000.0 if unanswered == 1 else answering
        assert pause == (suspect if wrong else known)


async def test_what_an_answer_is(host: Namespace) -> None:
    assert await answers("203.0.113.2", None, 30.0)
    assert await answers("203.0.113.2", 9, 30.0)
    assert await answers("::1", None, 30.0)
    mute(host)
    assert not await answers("203.0.113.2", None, 0.2)
    assert not await answers("203.0.113.2", 9, 0.2)
    assert not await answers("198.51.100.1", 9, 30.0), "this host has no route there, and says so at once"


async def test_a_tunnel_that_begins_to_fail_has_its_gateway_asked_at_once() -> None:
    gateway = ProbedGateway("203.0.113.2", None)
    asked_while_well = ProbeRecord().after(True, 1000.0, False)
    assert asked_while_well.due_at(gateway, True, FAILING_PROBE_SECONDS) == 0.0
    asked_since = asked_while_well.after(True, 1001.0, True)
    assert asked_since.due_at(gateway, True, FAILING_PROBE_SECONDS) == 1001.0 + FAILING_PROBE_SECONDS


async def test_a_gateway_is_asked_at_once_at_each_failure_of_its_tunnel(host: Namespace) -> None:
    """Not only after the pause of one whose tunnel fails all the time."""
    story = EndpointWorld()
    watch = EndpointWatch(
        story.snapshot,
        {"test": replace(KIND, tcp_port=lambda tunnel: None)},
        story.post,
        asyncio.Event(),
        0.02,
    )
    task = asyncio.create_task(watch.run())
    try:
        while not record(watch).ever_answered:
            await asyncio.sleep(0.01)
        story.state = SICK
        await story.becomes(Reach.ANSWERS)
        story.state = but(WELL, endpoint=Reach.ANSWERS)
        await story.becomes(Reach.ANSWERS, Reach.UNKNOWN)
        mute(host)
        story.state = SICK
        async with asyncio.timeout(FAILING_PROBE_SECONDS / 2):
            while Reach.SILENT not in story.told:
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.wait([task])
