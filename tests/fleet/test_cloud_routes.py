"""Routes of VPC route tables: what is written, given an API whose answers may be stale."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.fleet.cloud_routes import (
    SHOWN_SECONDS,
    CloudMemory,
    CloudRoute,
    RouteTarget,
    RouteWrite,
    carried_here,
    decide,
)
from supervisor.core.network.plan import Carry, Lane, NetworkPlan
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Drain, Health, Phase, TunnelState, Want
from tests.simulation.test_worlds import tunnel
from tests.states import but, tunnel_state
from tunnels.base import Reason

OURS, THEIRS = "eni-0001", "eni-0002"
ROUTE = CloudRoute("rtb-1", "10.77.0.0/24")
RIGHT, OTHER, DEAD = RouteTarget(OURS), RouteTarget(THEIRS), RouteTarget(OURS, active=False)


def turns(*seen: RouteTarget | None, every: float = 0.5) -> list[RouteWrite | None]:
    """What is written after each of these readings."""
    memory, written = CloudMemory(), []
    for number, target in enumerate(seen):
        found = {} if target is None else {ROUTE: target}
        writes, memory = decide([ROUTE], OURS, found, memory, number * every)
        written.append(writes.get(ROUTE))
    return written


@pytest.mark.parametrize(
    ("seen", "written"),
    [
        ([RIGHT, RIGHT], [None, None]),
        ([None, None, RIGHT], [RouteWrite.CREATE, None, None]),  # the write has not shown yet
        ([OTHER, OTHER, RIGHT], [RouteWrite.REPLACE, None, None]),
        ([RIGHT, OTHER, RIGHT, OTHER, RIGHT], [None] * 5),  # one stale answer now and then
        ([RIGHT, OTHER, OTHER], [None, None, RouteWrite.REPLACE]),  # somebody has changed it
        ([RIGHT, OTHER, None, None], [None, None, None, RouteWrite.CREATE]),  # two that agree
        ([RIGHT, DEAD, DEAD], [None, None, RouteWrite.REPLACE]),
        ([DEAD], [RouteWrite.REPLACE]),
    ],
)
def test_what_is_written(seen: list[RouteTarget | None], written: list[RouteWrite | None]) -> None:
    assert turns(*seen) == written


def test_a_write_that_never_shows_is_repeated() -> None:
    assert turns(OTHER, OTHER, every=SHOWN_SECONDS) == [RouteWrite.REPLACE, RouteWrite.REPLACE]


def test_what_is_not_ours_any_more_is_left_alone_and_forgotten() -> None:
    _, memory = decide([ROUTE], OURS, {ROUTE: RIGHT}, CloudMemory(), 0.0)
    assert decide([], OURS, {ROUTE: OTHER}, memory, 1.0) == ({}, CloudMemory())


@given(st.lists(st.booleans(), min_size=5, max_size=60), st.integers(0, 19))
def test_stale_answers_never_flap_the_route(stale: list[bool], lag: int) -> None:
    """An API that shows a write after up to 9.5 s, and an old state in single answers: one write, and it
    stays.
    """
    memory, actual, written_at, writes = CloudMemory(), OTHER, 0.0, 0
    for number, old in enumerate([False] * 40 + stale):
        now = number * 0.5
        shown = actual if now - written_at >= lag * 0.5 or actual is OTHER else OTHER
        previous = number > 0 and ([False] * 40 + stale)[number - 1]
        if old and not previous:  # never two old answers in a row
            shown = OTHER
        made, memory = decide([ROUTE], OURS, {ROUTE: shown}, memory, now)
        if made:
            actual, written_at, writes = RIGHT, now, writes + 1
    assert writes == 1
    assert actual is RIGHT


UP = tunnel_state(phase=Phase.UP, want=Want.UP, health=Health.HEALTHY)


@pytest.mark.parametrize(
    ("state", "owned"),
    [
        (UP, True),
        (but(UP, drain=Drain(Reason.STOPPED, 9.0)), False),
        (tunnel_state(phase=Phase.BACKOFF, want=Want.UP), False),
    ],
)
def test_who_may_own_a_route(state: TunnelState, owned: bool) -> None:
    network = ip_network("10.77.0.0/24")
    plan = NetworkPlan(
        lanes=(Lane("acme", 173001, "t-acme", True),), carries=(Carry(network, 173001, network),)
    )
    snapshot = Snapshot({"acme": (tunnel("acme"), state)}, 100.0)
    assert carried_here(plan, snapshot) == ({network} if owned else set())
    assert carried_here(plan, Snapshot(snapshot.tunnels, 100.0, draining=True)) == set()
