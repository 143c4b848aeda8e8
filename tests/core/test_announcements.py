"""What routers are told of a destination: by the state of the tunnel that carries it, and by what they were
told before.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.core import events as ev
from supervisor.core.fleet.announcements import (
    CARRYING_METRIC,
    DRAINING_METRIC,
    LAST_METRIC,
    SETTLED_SECONDS,
    STANDBY_PENALTY,
    Announcements,
    announce,
    metric_of,
)
from supervisor.core.fleet.carrying import carrying_problem
from supervisor.core.network.compose import Announcing, Scope, compose
from supervisor.core.network.failover import choose
from supervisor.core.network.plan import NetworkPlan, Offer
from supervisor.core.session.step import step
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Drain, Health, Phase, Proof, TunnelState, Want, sound, well
from tests.core.moments import moment
from tests.fakes import KIND
from tests.settings import configured
from tests.states import but, tunnel_state
from tunnels.base import Reason
from tunnels.settings import Probe, Tunnel

NETWORK, NOW, LANES = ip_network("10.77.0.0/24"), 1000.0, {"main": 173001, "spare": 173002}
BGP = Announcing(173, 100)
PROBED = configured(Probe, targets=("icmp://10.77.0.1",))
MAIN = configured(
    Tunnel, name="main", kind="test", destinations=("10.77.0.0/24", "fd00:77::/64"), probe=PROBED
)
SPARE = configured(
    Tunnel, name="spare", kind="test", destinations=("10.77.0.0/24",), probe=PROBED, priority=200
)
WELL = tunnel_state(phase=Phase.UP, health=Health.HEALTHY, well_since=10.0, sound_since=10.0)
SICK = but(WELL, health=Health.UNHEALTHY)
SUSPECTED = but(WELL, suspected=NOW - 1, sound_since=NOW - 1)
DOWN = tunnel_state(phase=Phase.BACKOFF)


def told(state: TunnelState, before: Announcements = Announcements(), now: float = NOW) -> Announcements:
    snapshot = Snapshot({"main": (MAIN, state)}, now)
    return announce(BGP, snapshot, {NETWORK: "main"}, LANES, before)


def metrics(announcements: Announcements) -> set[int]:
    return {each.metric for each in announcements.routes}


@pytest.mark.parametrize(
    ("state", "metric"),
    [
        (WELL, 100),
        (but(WELL, chosen_since=20.0), 90),
        (but(WELL, sound_since=NOW - 9.9), 200),
        (but(WELL, sound_since=NOW - 9.9, chosen_since=NOW - 5), 90),
        (but(WELL, degraded="40 % of the last rounds"), 100),
        (SUSPECTED, 200),
        (but(WELL, drain=Drain(Reason.STOPPED, NOW + 60)), 5000),
        (SICK, 9000),
        (but(SICK, drain=Drain(Reason.STOPPED, NOW + 60)), 9000),
        (tunnel_state(phase=Phase.UP), 9000),  # no probe has shown yet that it works
        (DOWN, 9000),
        (tunnel_state(phase=Phase.FAILED), 9000),
        (tunnel_state(phase=Phase.STOPPED, want=Want.DOWN), None),
        (tunnel_state(phase=Phase.STOPPING, want=Want.DOWN), None),
    ],
)
def test_the_metric_says_how_well_it_works(state: TunnelState, metric: int | None) -> None:
    assert metrics(told(state)) == ({metric} if metric is not None else set())


def test_each_destination_stands_there_as_staff_address_it() -> None:
    mapped = configured(
        Tunnel,
        name="main",
        kind="test",
        destinations=({"network": "10.0.0.0/24", "presented_as": "100.64.1.0/24"}, "10.77.0.0/24"),
        probe=PROBED,
    )
    made = announce(BGP, Snapshot({"main": (mapped, WELL)}, NOW), {}, LANES, Announcements())
    assert {(str(each.network), each.tunnel, each.lane) for each in made.routes} == {
        ("100.64.1.0/24", "main", 173001),
        ("10.77.0.0/24", "main", 173001),
    }


def test_a_preference_moves_all_but_what_carries() -> None:
    by_offer = {offer: metric_of(offer, 300) for offer in Offer}
    assert by_offer == {
        Offer.CARRIES: 90,
        Offer.WORKS: 300,
        Offer.STANDS_BY: 400,
        Offer.DRAINS: 5000,
        Offer.LAST: 9000,
    }
    assert metric_of(Offer.CARRIES, 50) == 40
    assert metric_of(Offer.CARRIES, 2) == 1


def test_since_when_is_kept_while_the_metric_stays_and_objects_stay_while_nothing_changes() -> None:
    first = told(but(WELL, sound_since=NOW))
    assert (first.due, {each.since for each in first.routes}) == (NOW + SETTLED_SECONDS, {NOW})
    again = told(but(WELL, sound_since=NOW), first, NOW + 5)
    assert again is first
    settled = told(but(WELL, sound_since=NOW), first, NOW + SETTLED_SECONDS)
    assert {(each.metric, each.since) for each in settled.routes} == {(100, NOW + SETTLED_SECONDS)}
    assert settled.due is None
    assert told(but(WELL, sound_since=NOW), settled, NOW + 60).routes is settled.routes


def test_a_new_daemon_knows_since_when_from_the_state() -> None:
    assert {each.since for each in told(but(WELL, chosen_since=400.0)).routes} == {400.0}


def test_whoever_carries_goes_on_carrying_when_another_tunnel_of_this_host_takes_over() -> None:
    both = {"main": (MAIN, but(WELL, chosen_since=20.0)), "spare": (SPARE, WELL)}
    carriers, _ = choose({}, Snapshot(both, NOW))
    before = announce(BGP, Snapshot(both, NOW), carriers, LANES, Announcements())
    lost = Snapshot({**both, "main": (MAIN, DOWN)}, NOW + 1)
    after = announce(BGP, lost, choose(carriers, lost)[0], LANES, before)
    assert {(str(each.network), each.tunnel, each.metric) for each in after.routes} == {
        ("10.77.0.0/24", "spare", 90),
        ("fd00:77::/64", "main", LAST_METRIC),
    }


def test_nothing_is_announced_unless_it_is_configured() -> None:
    snapshot = Snapshot({"main": (MAIN, WELL)}, NOW)
    assert announce(None, snapshot, {}, LANES, told(WELL)) == Announcements()


# --- what moves the metrics of a tunnel


def after(state: TunnelState, *events: ev.Event, now: float = NOW, notice: float = 1.0) -> TunnelState:
    for event in events:
        state = step(moment(MAIN, now, notice=notice), state, event).tunnel
    return state


UP = but(WELL, session=replace(WELL.session, number=1), next_number=2, misses=0)


def test_a_suspicion_moves_and_an_answer_ends_it() -> None:
    state = after(but(UP, chosen_since=20.0), ev.Suspected("main", 1))
    assert (state.phase, state.health, sound(MAIN, state)) == (Phase.UP, Health.HEALTHY, False)
    assert (metrics(told(state)), state.chosen_since) == ({200}, None)
    state = after(state, ev.Probed("main", 1, 0.01), now=NOW + 1)
    assert (sound(MAIN, state), state.sound_since) == (True, NOW + 1)
    assert metrics(told(state, now=NOW + 2)) == {200}
    assert metrics(told(state, now=NOW + 12)) == {100}


def test_missed_rounds_are_no_suspicion_by_themselves_and_a_repeat_that_is_answered_is_none() -> None:
    state = after(UP, ev.Probed("main", 1), ev.Probed("main", 1))
    assert (sound(MAIN, state), state.liveness.misses) == (True, 2)
    state = after(state, ev.Suspected("main", 1), ev.Probed("main", 1, proof=Proof.REPEATED))
    assert (sound(MAIN, state), state.liveness.misses, state.liveness.recent[-1]) == (True, 0, None)


def test_a_suspected_tunnel_gives_new_flows_to_another_one_that_is_not() -> None:
    both = {"main": (MAIN, WELL), "spare": (SPARE, WELL)}
    carriers, _ = choose({}, Snapshot(both, NOW))
    assert carriers[NETWORK] == "main"
    moved, _ = choose(carriers, Snapshot({**both, "main": (MAIN, SUSPECTED)}, NOW))
    assert moved[NETWORK] == "spare"
    neither, _ = choose(carriers, Snapshot({"main": (MAIN, SUSPECTED), "spare": (SPARE, SUSPECTED)}, NOW))
    assert neither[NETWORK] == "main"
    back = {**both, "main": (MAIN, but(WELL, sound_since=NOW))}
    still, due = choose(moved, Snapshot(back, NOW + 1))
    assert (still[NETWORK], due) == ("spare", NOW + MAIN.reconnect.stable_after)


def test_new_flows_show_that_routers_send_them_here() -> None:
    state = after(UP, ev.FlowsEntered("main"))
    assert (state.chosen_since, metrics(told(state))) == (NOW, {CARRYING_METRIC})
    assert after(SUSPECTED, ev.FlowsEntered("main")).chosen_since is None


def test_who_was_cut_off_for_a_moment_gives_way_to_whom_routers_have_chosen_since() -> None:
    chosen = after(UP, ev.FlowsEntered("main"))
    state = after(chosen, ev.CarriedElsewhere("main"), now=NOW + 1)
    assert (state.chosen_since, state.sound_since) == (None, NOW + 1)
    assert metrics(told(state)) == {100 + STANDBY_PENALTY}
    assert after(UP, ev.CarriedElsewhere("main")) == UP


def test_a_planned_end_is_announced_and_waits_a_moment() -> None:
    state = after(UP, ev.Asked("main", reason=Reason.STOPPED))
    assert (state.phase, state.drain) == (Phase.UP, Drain(Reason.STOPPED, NOW + 1, not_before=NOW + 1))
    assert metrics(told(state)) == {DRAINING_METRIC}
    ended = after(state, ev.Asked("main", reason=Reason.STOPPED), now=NOW + 1)
    assert (ended.phase, ended.want) == (Phase.STOPPING, Want.DOWN)
    assert metrics(told(ended)) == set()
    at_once = after(UP, ev.Asked("main", reason=Reason.STOPPED), notice=0.0)
    assert at_once.phase is Phase.STOPPING


def test_a_drain_without_flows_does_not_end_before_the_routers_have_turned_away() -> None:
    state = after(
        UP, ev.Asked("main", reason=Reason.SHUTDOWN, until=NOW + 600), ev.FlowsCounted("main", left=0)
    )
    assert state.drain == Drain(Reason.SHUTDOWN, NOW + 600, 0, 0.0, NOW + 1)
    assert state.drain.due == NOW + 1
    counted = after(state, ev.FlowsCounted("main", left=2), now=NOW + 0.5)
    assert counted.drain is not None
    assert counted.drain.due == NOW + 600
    assert after(state, ev.FlowsCounted("main", left=0), now=NOW + 1).phase is Phase.STOPPING


def plan(state: TunnelState, now: float) -> NetworkPlan:
    snapshot = Snapshot({"main": (MAIN, state)}, now)
    return compose(Scope("here", ()), snapshot, LANES, {"test": KIND}, {}).plan


def test_new_flows_are_refused_when_the_routers_have_turned_away_and_not_before() -> None:
    state = after(UP, ev.Asked("main", reason=Reason.SHUTDOWN, until=NOW + 600))
    snapshot = Snapshot({"main": (MAIN, state)}, NOW)
    assert compose(Scope("here", ()), snapshot, LANES, {"test": KIND}, {}).due == NOW + 1
    assert [lane.draining for lane in plan(state, NOW + 0.9).lanes] == [False]
    assert [lane.draining for lane in plan(state, NOW + 1).lanes] == [True]


# --- for load balancers


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (UP, None),
        (SUSPECTED, "main does not work: up, healthy"),
        (SICK, "main does not work: up, unhealthy"),
        (but(UP, drain=Drain(Reason.STOPPED, NOW + 60)), "main drains"),
        (DOWN, "main does not work: backoff, unknown"),
    ],
)
@pytest.mark.parametrize("text", ["10.77.0.0/24", "10.77.0.0_24", "fd00:77::_64"])
def test_whether_a_destination_is_carried(state: TunnelState, problem: str | None, text: str) -> None:
    assert carrying_problem(Snapshot({"main": (MAIN, state)}, NOW), plan(state, NOW), text) == problem


@pytest.mark.parametrize("text", ["10.77.1.0/24", "10.77.0.0", "10.77.0.1/24", "nowhere", "../status"])
def test_a_destination_that_nobody_has(text: str) -> None:
    with pytest.raises(LookupError):
        carrying_problem(Snapshot({"main": (MAIN, UP)}, NOW), plan(UP, NOW), text)


# --- any two members, whatever happens

EVENTS = st.sampled_from(["well", "sick", "suspected", "down", "chosen"])


@settings(max_examples=200)
@given(st.lists(st.tuples(st.booleans(), EVENTS, st.floats(0.1, 30.0)), max_size=30))
def test_of_two_members_the_one_that_carries_keeps_it_while_it_works(
    happened: list[tuple[bool, str, float]],
) -> None:
    """A router takes the lower metric; of equal ones it keeps the one that it has."""
    words = {"well": WELL, "sick": SICK, "suspected": SUSPECTED, "down": DOWN}
    states, before = [WELL, WELL], [told(WELL), told(WELL)]
    chosen, now = 0, NOW
    for second, word, passed in happened:
        now += passed
        member = int(second)
        if word == "chosen":  # new flows come, where they are sent
            states[chosen] = after(states[chosen], ev.FlowsEntered("main"), now=now)
        elif word == "well":
            states[member] = states[member] if sound(MAIN, states[member]) else but(WELL, sound_since=now)
        else:
            states[member] = but(words[word], sound_since=now)
        before = [told(state, earlier, now) for state, earlier in zip(states, before, strict=True)]
        values = [metrics(each).pop() for each in before]
        previous, chosen = chosen, chosen if values[chosen] <= values[1 - chosen] else 1 - chosen
        assert well(MAIN, states[chosen]) or not any(well(MAIN, state) for state in states)
        settled = [sound(MAIN, state) and state.sound_since + SETTLED_SECONDS <= now for state in states]
        assert sound(MAIN, states[chosen]) or not any(settled)
        if before[previous].routes[0].offer is Offer.CARRIES:
            assert chosen == previous
