"""Which part of the way is dead, told from what each round shows; and when a tunnel that works is called
degraded.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core import events as ev
from supervisor.core.session.context import KindLimits
from supervisor.core.session.liveness import HEARSAY, STALE, dead_leg
from supervisor.core.session.machine import step
from supervisor.core.session.quality import WINDOW
from supervisor.core.state import (
    Failure,
    Health,
    Leg,
    Phase,
    Proof,
    Reach,
    Session,
    TunnelState,
    Uplink,
    well,
)
from tests.core.moments import moment
from tunnels.base import Full, Reason
from tunnels.settings import Degraded, Probe, Tunnel

TUNNEL = Tunnel(
    name="acme",
    kind="test",
    destinations=("10.77.0.0/24",),
    probe=Probe(
        targets=("icmp://10.77.0.1", "tcp://10.77.0.2:80"), degraded=Degraded(loss="20%", rtt="300ms")
    ),
)
HEALTHY = TunnelState(
    phase=Phase.UP, health=Health.HEALTHY, reason=Reason.HEALTHY, session=Session(1), healthy_since=0.0
)
MISS, HEARD, FELT = (
    ev.Probed("acme", 1),
    ev.Probed("acme", 1, None, Proof.ANSWERED),
    ev.Probed("acme", 1, None, Proof.RECEIVED),
)
ANSWER = ev.Probed("acme", 1, 0.02)
DEAD = Uplink(alive=False)


def after(state: TunnelState, *events: ev.Event, limits: KindLimits = KindLimits(), uplink: bool = True):
    actions: list[ev.Action] = []
    for number, event in enumerate(events):
        state, orders = step(moment(TUNNEL, 100.0 + number, limits=limits, uplink=uplink), state, event)
        actions += orders
    return state, actions


@pytest.mark.parametrize(
    ("rounds", "phase", "leg"),
    [
        ([MISS, MISS], Phase.UP, None),
        ([MISS, MISS, MISS], Phase.STOPPING, Leg.TUNNEL),
        (
            [HEARD, MISS, MISS],
            Phase.STOPPING,
            Leg.TUNNEL,
        ),  # what was in flight when the path died buys no time
        ([FELT, MISS, MISS], Phase.STOPPING, Leg.TUNNEL),
        ([HEARD, HEARD], Phase.UP, None),
        ([HEARD, HEARD, HEARD], Phase.UP, Leg.DESTINATION),
        ([MISS, MISS, HEARD], Phase.UP, Leg.DESTINATION),
        ([HEARD, HEARD, MISS], Phase.UP, None),  # one lost answer of the far end decides nothing
        ([HEARD, HEARD, MISS, HEARD], Phase.UP, Leg.DESTINATION),
        ([HEARD, HEARD, MISS, MISS], Phase.STOPPING, Leg.TUNNEL),
        ([FELT] * HEARSAY, Phase.STOPPING, Leg.TUNNEL),
        ([FELT] * (HEARSAY - 1), Phase.UP, Leg.DESTINATION),
        ([HEARD] * 10 * HEARSAY, Phase.UP, Leg.DESTINATION),
        ([HEARD] * 10 + [MISS] * (STALE - 1), Phase.UP, Leg.DESTINATION),
        ([HEARD] * 10 + [MISS] * STALE, Phase.STOPPING, Leg.TUNNEL),
        ([HEARD] * 10 + [MISS] * (STALE - 1) + [HEARD] + [MISS] * (STALE - 1), Phase.UP, Leg.DESTINATION),
    ],
)
def test_what_rounds_without_an_answer_show(rounds, phase, leg) -> None:
    state, _ = after(HEALTHY, *rounds)
    assert (state.phase, dead_leg(TUNNEL, state, Uplink())) == (phase, leg)


def test_a_dead_destination_is_named_and_costs_no_session() -> None:
    state, actions = after(HEALTHY, HEARD, HEARD, HEARD)
    assert actions == []
    assert (state.phase, state.health, state.reason) == (Phase.UP, Health.UNHEALTHY, Reason.DESTINATION)
    assert state.failure is not None
    assert "its far end answers" in state.failure.text
    assert "tcp://10.77.0.2:80" in state.failure.text
    assert not well(TUNNEL, state)
    back, actions = after(state, ANSWER)
    assert (back.health, back.misses, actions) == (Health.HEALTHY, 0, [])


def test_hearsay_ends_a_session_once_until_a_target_has_answered() -> None:
    state, _ = after(HEALTHY, *[FELT] * HEARSAY)
    assert state.doubted
    again, actions = after(replace(HEALTHY, health=Health.UNKNOWN, doubted=True), *[FELT] * 3 * HEARSAY)
    assert (again.phase, again.reason, actions) == (Phase.UP, Reason.DESTINATION, [])
    assert not after(again, ANSWER)[0].doubted


def test_a_client_that_reconnects_in_place_has_the_time_for_it() -> None:
    renews = KindLimits(renews=True)
    state, actions = after(HEALTHY, *[HEARD] * 50, *[MISS] * STALE, limits=renews)
    assert (state.phase, actions) == (Phase.UP, [ev.Renew("acme", 1)])
    assert after(state, MISS, MISS, limits=renews)[0].phase is Phase.UP
    assert after(state, MISS, MISS, MISS, limits=renews)[0].phase is Phase.STOPPING
    assert after(state, MISS, MISS, HEARD, limits=renews)[0].reason is Reason.DESTINATION


def test_while_the_uplink_is_dead_nothing_is_given_up_and_the_uplink_is_blamed() -> None:
    for health in (HEALTHY, after(HEALTHY, *[HEARD] * 5)[0]):
        state, actions = after(health, *[MISS] * 50, uplink=False)
        assert (state.phase, state.health, actions) == (Phase.UP, Health.UNHEALTHY, [])
        assert dead_leg(TUNNEL, state, DEAD) is Leg.UPLINK
        back, actions = after(state, ev.UplinkBack("acme"), MISS, MISS)
        assert (back.phase, actions) == (Phase.UP, [])


def test_while_the_uplink_is_doubted_a_silent_tunnel_is_not_judged() -> None:
    state = HEALTHY
    for _ in range(20):
        state, actions = step(moment(TUNNEL, 100.0, doubted=True), state, MISS)
        assert (state.health, actions) == (Health.HEALTHY, ())
    assert step(moment(TUNNEL, 100.0), state, MISS)[0].phase is Phase.STOPPING
    assert step(moment(TUNNEL, 100.0, uplink=False), state, MISS)[0].reason is Reason.UPLINK


@pytest.mark.parametrize(
    ("reason", "endpoint", "leg"),
    [
        (Reason.UNHEALTHY, Reach.UNKNOWN, Leg.TUNNEL),
        (Reason.UNHEALTHY, Reach.SILENT, Leg.ENDPOINT),
        (Reason.PEER_TIMEOUT, Reach.ANSWERS, Leg.TUNNEL),
        (Reason.NETWORK, Reach.UNKNOWN, Leg.ENDPOINT),
        (Reason.NETWORK, Reach.ANSWERS, Leg.TUNNEL),
        (Reason.DNS, Reach.UNKNOWN, Leg.ENDPOINT),
        (Reason.AUTH, Reach.UNKNOWN, Leg.TUNNEL),
        (Reason.UPLINK, Reach.UNKNOWN, Leg.UPLINK),
        (Reason.MISSING_BINARY, Reach.SILENT, None),
    ],
)
def test_the_leg_of_a_tunnel_that_waits(reason: Reason, endpoint: Reach, leg: Leg | None) -> None:
    state = TunnelState(
        phase=Phase.BACKOFF, reason=reason, failure=Failure(reason, "x", 0.0), endpoint=endpoint
    )
    assert dead_leg(TUNNEL, state, Uplink()) is leg
    assert dead_leg(TUNNEL, state, DEAD) is Leg.UPLINK


# --- quality
# ----------------------------------------------------------------------------------------------------------


def rounds(text: str) -> list[ev.Event]:
    """One letter a round: . answered, s slowly, x not at all."""
    return [
        MISS if letter == "x" else ev.Probed("acme", 1, 0.5 if letter == "s" else 0.02) for letter in text
    ]


@pytest.mark.parametrize(
    ("story", "bad"),
    [
        ("." * 100, False),
        ("." * 20 + "x.x.x.x", False),
        ("." * 20 + "x.x.x.x.x", True),
        ("x.x.x.x.x", True),
        ("x.x.x.x.x" + "." * 19, True),  # three are left in the window: better, but not clearly
        ("x.x.x.x.x" + "." * 20, False),
        ("s" * 11, False),
        ("s" * 12, True),
        ("." * 24 + "s" * 12, False),
        ("." * 24 + "s" * 13, True),
        ("s" * 24 + "." * 12, True),
        ("s" * 24 + "." * 13, False),
        ("x.x.x.x.xx.xxx", False),  # it is dead: that is another word
    ],
)
def test_when_a_tunnel_that_works_is_degraded(story: str, bad: bool) -> None:
    state, _ = after(HEALTHY, *rounds(story))
    assert (state.degraded is not None) is bad
    assert state.degraded is None or state.reason is Reason.DEGRADED


def test_degraded_is_well_and_restarts_nothing() -> None:
    state, actions = after(HEALTHY, *rounds("x.x.x.x.x"))
    assert (well(TUNNEL, state), state.health, actions, dead_leg(TUNNEL, state, Uplink())) == (
        True,
        Health.HEALTHY,
        [],
        None,
    )
    assert state.degraded == "5 of the last 24 probe rounds unanswered (21%, the limit is 20%)"
    assert after(state, *rounds("." * WINDOW))[0].reason is Reason.HEALTHY


FULL = ev.ClientSaid("acme", 1, Full("full: 960 connections are open"))
ROOM = ev.ClientSaid("acme", 1, Full(None))


def test_a_full_client_is_degraded_until_there_is_room() -> None:
    full, actions = after(HEALTHY, FULL, *rounds("." * 30))
    assert (full.degraded, full.reason, full.health, actions) == (
        "full: 960 connections are open",
        Reason.DEGRADED,
        Health.HEALTHY,
        [],
    )
    assert well(TUNNEL, full)
    room, _ = after(full, ROOM)
    assert (room.degraded, room.full, room.reason) == (None, None, Reason.HEALTHY)
    assert (
        after(full, *rounds("x.x.x.x.x"), ROOM, ANSWER)[0].degraded
        == "5 of the last 24 probe rounds unanswered (21%, the limit is 20%)"
    )


def test_a_full_client_is_not_taken_for_a_dead_one_but_not_for_ever() -> None:
    state, actions = after(HEALTHY, FULL, *[MISS] * (HEARSAY - 1))
    assert (state.phase, state.health, actions) == (Phase.UP, Health.HEALTHY, [])
    assert after(state, MISS)[0].phase is Phase.STOPPING
    assert after(state, ANSWER, *[MISS] * 20)[0].phase is Phase.UP
    assert after(state, ROOM, MISS)[0].phase is Phase.STOPPING
    assert after(HEALTHY, FULL, *[HEARD] * 3)[0].reason is Reason.DESTINATION


def test_the_next_session_is_not_full_any_more() -> None:
    state, _ = after(HEALTHY, FULL, ev.Exited("acme", 1, 1), ev.Tick("acme"))
    assert (state.session.number, state.full, state.degraded) == (2, None, None)


def test_a_tunnel_that_was_full_while_its_destination_was_dead_still_is() -> None:
    sick, _ = after(HEALTHY, FULL, *[HEARD] * 3)
    assert sick.degraded is None
    assert after(sick, ANSWER)[0].degraded == "full: 960 connections are open"


@given(st.lists(st.sampled_from(".sx"), max_size=200))
def test_it_never_flips_to_and_fro_from_one_round_to_the_next(story: list[str]) -> None:
    state, flipped = HEALTHY, False
    for event in rounds("".join(story)):
        before, (state, _) = state, after(state, event)
        if state.phase is not Phase.UP:
            return
        flips = (before.degraded is None) is not (state.degraded is None)
        assert not (flips and flipped)
        assert len(state.recent) <= WINDOW
        flipped = flips
