"""Which part of the way is dead, told from what each round shows; and when a tunnel that works is called
degraded.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core import events as ev
from supervisor.core.session.liveness import STALE_ROUNDS, UNPROVEN_ROUNDS, dead_leg
from supervisor.core.session.quality import WINDOW_ROUNDS
from supervisor.core.session.step import step
from supervisor.core.snapshot import Uplink
from supervisor.core.state import Failure, Health, Leg, Phase, Proof, Reach, Session, TunnelState, well
from tests.core.moments import moment
from tests.fakes import KIND
from tests.settings import configured
from tests.states import but, tunnel_state
from tunnels.base import AnyKind, Full, Reason, Say
from tunnels.settings import Degraded, Probe, Tunnel

TUNNEL = configured(
    Tunnel,
    name="acme",
    kind="test",
    destinations=("10.77.0.0/24",),
    probe=configured(
        Probe,
        targets=("icmp://10.77.0.1", "tcp://10.77.0.2:80"),
        degraded=configured(Degraded, loss="20%", rtt="300ms"),
    ),
)
HEALTHY = tunnel_state(
    phase=Phase.UP, health=Health.HEALTHY, reason=Reason.HEALTHY, session=Session(1), healthy_since=0.0
)
MISS, HEARD, FELT = (
    ev.Probed("acme", 1),
    ev.Probed("acme", 1, None, Proof.ANSWERED),
    ev.Probed("acme", 1, None, Proof.RECEIVED),
)
ANSWER = ev.Probed("acme", 1, 0.02)
DEAD = Uplink(alive=False)


def after(state: TunnelState, *events: ev.Event, kind: AnyKind = KIND, uplink: bool = True):
    actions: list[ev.Action] = []
    for number, event in enumerate(events):
        result = step(moment(TUNNEL, 100.0 + number, kind=kind, uplink=uplink), state, event)
        state, actions = result.tunnel, [*actions, *result.actions]
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
        ([FELT] * UNPROVEN_ROUNDS, Phase.STOPPING, Leg.TUNNEL),
        ([FELT] * (UNPROVEN_ROUNDS - 1), Phase.UP, Leg.DESTINATION),
        ([HEARD] * 10 * UNPROVEN_ROUNDS, Phase.UP, Leg.DESTINATION),
        ([HEARD] * 10 + [MISS] * (STALE_ROUNDS - 1), Phase.UP, Leg.DESTINATION),
        ([HEARD] * 10 + [MISS] * STALE_ROUNDS, Phase.STOPPING, Leg.TUNNEL),
        (
            [HEARD] * 10 + [MISS] * (STALE_ROUNDS - 1) + [HEARD] + [MISS] * (STALE_ROUNDS - 1),
            Phase.UP,
            Leg.DESTINATION,
        ),
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
    assert "its remote end answers" in state.failure.text
    assert "tcp://10.77.0.2:80" in state.failure.text
    assert not well(TUNNEL, state)
    back, actions = after(state, ANSWER)
    assert (back.health, back.liveness.misses, actions) == (Health.HEALTHY, 0, [])


def test_hearsay_ends_a_session_once_until_a_target_has_answered() -> None:
    state, _ = after(HEALTHY, *[FELT] * UNPROVEN_ROUNDS)
    assert state.liveness.gave_up_on_hearsay
    again, actions = after(
        but(HEALTHY, health=Health.UNKNOWN, gave_up_on_hearsay=True), *[FELT] * 3 * UNPROVEN_ROUNDS
    )
    assert (again.phase, again.reason, actions) == (Phase.UP, Reason.DESTINATION, [])
    assert not after(again, ANSWER)[0].liveness.gave_up_on_hearsay


def test_a_client_that_reconnects_in_place_has_the_time_for_it() -> None:
    renews = replace(KIND, renew=(Say("renew"),))
    state, actions = after(HEALTHY, *[HEARD] * 50, *[MISS] * STALE_ROUNDS, kind=renews)
    assert (state.phase, actions) == (Phase.UP, [ev.Renew("acme", 1)])
    assert after(state, MISS, MISS, kind=renews)[0].phase is Phase.UP
    assert after(state, MISS, MISS, MISS, kind=renews)[0].phase is Phase.STOPPING
    assert after(state, MISS, MISS, HEARD, kind=renews)[0].reason is Reason.DESTINATION


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
        result = step(moment(TUNNEL, 100.0, doubted=True), state, MISS)
        state = result.tunnel
        assert (state.health, result.actions) == (Health.HEALTHY, ())
    assert step(moment(TUNNEL, 100.0), state, MISS).tunnel.phase is Phase.STOPPING
    assert step(moment(TUNNEL, 100.0, uplink=False), state, MISS).tunnel.reason is Reason.UPLINK


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
    state = tunnel_state(
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
    assert (state.liveness.degraded is not None) is bad
    assert state.liveness.degraded is None or state.reason is Reason.DEGRADED


def test_degraded_is_well_and_restarts_nothing() -> None:
    state, actions = after(HEALTHY, *rounds("x.x.x.x.x"))
    assert (well(TUNNEL, state), state.health, actions, dead_leg(TUNNEL, state, Uplink())) == (
        True,
        Health.HEALTHY,
        [],
        None,
    )
    assert state.liveness.degraded == "5 of the last 24 probe rounds unanswered (21%, the limit is 20%)"
    assert after(state, *rounds("." * WINDOW_ROUNDS))[0].reason is Reason.HEALTHY


FULL = ev.ClientSaid("acme", 1, Full("full: 960 connections are open"))
ROOM = ev.ClientSaid("acme", 1, Full(None))


def test_a_full_client_is_degraded_until_there_is_room() -> None:
    full, actions = after(HEALTHY, FULL, *rounds("." * 30))
    assert (full.liveness.degraded, full.reason, full.health, actions) == (
        "full: 960 connections are open",
        Reason.DEGRADED,
        Health.HEALTHY,
        [],
    )
    assert well(TUNNEL, full)
    room, _ = after(full, ROOM)
    assert (room.liveness.degraded, room.liveness.full, room.reason) == (None, None, Reason.HEALTHY)
    assert (
        after(full, *rounds("x.x.x.x.x"), ROOM, ANSWER)[0].liveness.degraded
        == "5 of the last 24 probe rounds unanswered (21%, the limit is 20%)"
    )


def test_a_full_client_is_not_taken_for_a_dead_one_but_not_for_ever() -> None:
    state, actions = after(HEALTHY, FULL, *[MISS] * (UNPROVEN_ROUNDS - 1))
    assert (state.phase, state.health, actions) == (Phase.UP, Health.HEALTHY, [])
    assert after(state, MISS)[0].phase is Phase.STOPPING
    assert after(state, ANSWER, *[MISS] * 20)[0].phase is Phase.UP
    assert after(state, ROOM, MISS)[0].phase is Phase.STOPPING
    assert after(HEALTHY, FULL, *[HEARD] * 3)[0].reason is Reason.DESTINATION


def test_the_next_session_is_not_full_any_more() -> None:
    state, _ = after(HEALTHY, FULL, ev.Exited("acme", 1, 1), ev.Tick("acme"))
    assert (state.session.number, state.liveness.full, state.liveness.degraded) == (2, None, None)


def test_a_tunnel_that_was_full_while_its_destination_was_dead_still_is() -> None:
    sick, _ = after(HEALTHY, FULL, *[HEARD] * 3)
    assert sick.liveness.degraded is None
    assert after(sick, ANSWER)[0].liveness.degraded == "full: 960 connections are open"


@given(st.lists(st.sampled_from(".sx"), max_size=200))
def test_it_never_flips_to_and_fro_from_one_round_to_the_next(story: list[str]) -> None:
    state, flipped = HEALTHY, False
    for event in rounds("".join(story)):
        before, (state, _) = state, after(state, event)
        if state.phase is not Phase.UP:
            return
        flips = (before.liveness.degraded is None) is not (state.liveness.degraded is None)
        assert not (flips and flipped)
        assert len(state.liveness.recent) <= WINDOW_ROUNDS
        flipped = flips
