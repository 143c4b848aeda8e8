"""Planned reconnects in virtual time: who replaces whom, when, and what is learned about the gateway."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from supervisor.app.shutdown import all_stopped
from supervisor.config.validation import validated
from supervisor.core import events as ev
from supervisor.core.network.lanes import FIRST_LANE, NEXT_SLOT
from supervisor.core.state import Health, Known, Phase, Second, TunnelState
from supervisor.core.views.drain_text import waits_for
from tests.fakes import KIND, Habits, World
from tests.settings import configured
from tunnels.base import Failed, Reason, Say
from tunnels.settings import Planned, Probe, Reconnect, Tunnel

HOUR = 3600.0
PLANNED = configured(Reconnect, planned=validated(Planned, {"every": "1h", "before": "5m"}))
PROBED = Probe(targets=("icmp://10.77.0.1",))
RENEWS = replace(KIND, renew=(Say("renew"),), renew_starts_new_session=True)


def tunnel(name: str = "acme", network: str = "10.77.0.0/24", **settings: object) -> Tunnel:
    return configured(
        Tunnel,
        name=name,
        kind="test",
        destinations=(network,),
        **{"reconnect": PLANNED, "probe": PROBED, **settings},
    )


def world(habits: Habits, kind: object = KIND, **more: object) -> World:
    return World({"acme": tunnel()}, habits, kind=kind, **more)


def state(simulated: World, name: str = "acme") -> TunnelState:
    return simulated.engine.snapshot.tunnels[name][1]


def never_down(simulated: World, until: float, name: str = "acme") -> None:
    while simulated.now < until:
        simulated.run(until=simulated.now + 0.1)
        assert state(simulated, name).phase is Phase.UP, f"down at {simulated.now}"


def carrying(simulated: World) -> int:
    return simulated.engine.plan.carries[0].lane


def settled(habits: Habits, until: float = 60.0, **more: object) -> World:
    simulated = world(habits, **more)
    simulated.run(until=until)
    assert state(simulated).health is Health.HEALTHY
    return simulated


# --- make before break
# ----------------------------------------------------------------------------------------------------------


def test_both_sessions_live_until_the_flows_of_the_first_are_over() -> None:
    left = {"count": 3}
    simulated = settled(Habits(second=Second.ALLOWED, flows=lambda name, now: left["count"]))
    never_down(simulated, HOUR)
    assert simulated.runner.sessions("acme") == [1, 2], "the old one carries its flows on"
    assert carrying(simulated) == FIRST_LANE + NEXT_SLOT
    assert [lane.up for lane in simulated.engine.plan.lanes] == [True, True]
    assert state(simulated).known.second is Second.ALLOWED
    left["count"] = 0
    never_down(simulated, HOUR + 100.0)
    assert simulated.runner.sessions("acme") == [2]
    assert state(simulated).standby is None
    never_down(simulated, 2 * HOUR)
    assert carrying(simulated) == FIRST_LANE, "the slots take turns"


def test_new_flows_enter_only_when_the_successor_has_proven_itself() -> None:
    habits = Habits(second=Second.ALLOWED, connects_in=lambda: 5.0)
    simulated = settled(habits)
    while state(simulated).standby is None:
        simulated.run(until=simulated.now + 1.0)
    while state(simulated).standby.phase is not Phase.UP:
        assert carrying(simulated) == FIRST_LANE
        simulated.run(until=simulated.now + 0.001)
    simulated.run(until=simulated.now + 0.05)
    assert carrying(simulated) == FIRST_LANE + NEXT_SLOT


def test_a_successor_through_which_nothing_passes_never_carries() -> None:
    simulated = settled(Habits(second=Second.ALLOWED))
    simulated.runner.dead = {("acme", number) for number in range(2, 9)}
    while simulated.now < HOUR:
        simulated.run(until=simulated.now + 0.5)
        assert (carrying(simulated), state(simulated).session.number) == (FIRST_LANE, 1)
    assert len(simulated.runner.spawned) > 2, "it was tried"


def test_an_address_given_again_is_taken_over_at_once() -> None:
    simulated = settled(Habits(second=Second.REPLACES, flows=lambda name, now: 5))
    never_down(simulated, HOUR)
    assert simulated.runner.sessions("acme") == [2]
    assert state(simulated).known.second is Second.REPLACES
    assert all(t.reason is not Reason.UNHEALTHY for t in simulated.recorder.transitions)


@pytest.mark.parametrize("kind", [KIND, RENEWS], ids=["another client", "in place"])
def test_a_far_side_that_is_known_to_take_over(kind: object) -> None:
    simulated = settled(Habits(second=Second.REPLACES), kind=kind, known={"acme": Known(Second.REPLACES)})
    never_down(simulated, HOUR)
    assert len(simulated.runner.renewed) == (kind is RENEWS)
    assert simulated.runner.sessions("acme") == [1 if kind is RENEWS else 2]


def test_a_far_side_that_ends_the_first_session_is_remembered() -> None:
    simulated = settled(Habits(second=Second.ENDS, flows=lambda name, now: 5), kind=RENEWS)
    never_down(simulated, HOUR)
    assert state(simulated).known.second is Second.ENDS
    assert simulated.runner.sessions("acme") == [2]
    never_down(simulated, 2 * HOUR)
    assert [number for _, _, number in simulated.runner.renewed] == [2], "from now on in place"
    assert simulated.runner.sessions("acme") == [2]


@pytest.mark.parametrize("kind", [KIND, RENEWS], ids=["at a quiet moment", "in place"])
def test_a_far_side_that_refuses_a_second_session(kind: object) -> None:
    simulated = settled(Habits(second=Second.REFUSED), kind=kind)
    simulated.run(until=3000.0)
    never_down(simulated, 3450.0 if kind is KIND else HOUR)
    assert state(simulated).known.second is Second.REFUSED
    if kind is RENEWS:
        assert len(simulated.runner.renewed) == 1
        return
    simulated.post(ev.Quiet("acme"))
    simulated.run(until=3460.0)
    assert state(simulated).session.started > 3440.0
    assert [t.reason for t in simulated.recorder.transitions if t.after is Phase.STOPPING][
        -1
    ] is Reason.PLANNED
    assert simulated.alerter.opened == []


def test_without_a_quiet_moment_it_reconnects_just_before_the_limit() -> None:
    simulated = settled(Habits(second=Second.REFUSED), known={"acme": Known(Second.REFUSED)})
    never_down(simulated, HOUR - 10.0)
    simulated.run(until=HOUR)
    assert HOUR - 8.0 < state(simulated).session.started < HOUR


# --- what goes wrong
# ----------------------------------------------------------------------------------------------------------


def test_a_successor_that_does_not_come_up_changes_nothing() -> None:
    habits = Habits(second=Second.ALLOWED)
    simulated = settled(habits)
    habits.says = lambda: Failed(Reason.NETWORK, "unreachable")
    never_down(simulated, HOUR)
    assert state(simulated).session.number == 1
    assert len(simulated.runner.spawned) > 3, "it is tried again"
    habits.says = lambda: None
    never_down(simulated, HOUR + 200.0)
    assert state(simulated).session.number > 1


def test_a_refused_login_is_not_repeated_while_the_session_lives() -> None:
    habits = Habits(second=Second.ALLOWED)
    simulated = settled(habits)
    habits.says = lambda: Failed(Reason.AUTH, "no")
    never_down(simulated, 2 * HOUR)
    simulated.run(until=10 * HOUR)
    assert len(simulated.runner.spawned) == 2


def test_the_session_ends_while_its_successor_starts() -> None:
    habits = Habits(second=Second.ALLOWED, connects_in=lambda: 30.0)
    simulated = settled(habits, 100.0)
    while state(simulated).standby is None:
        simulated.run(until=simulated.now + 1.0)
    simulated.runner.exit("acme", 1, ev.Exited("acme", 1, 1))
    simulated.run(until=simulated.now + 0.1)
    assert state(simulated).phase is Phase.STARTING
    assert len(simulated.runner.spawned) == 2, "the successor is the reconnect"
    simulated.run(until=simulated.now + 35.0)
    assert state(simulated).health is Health.HEALTHY


def test_the_new_session_ends_while_the_old_one_still_drains() -> None:
    simulated = settled(Habits(second=Second.ALLOWED, flows=lambda name, now: 5))
    simulated.run(until=HOUR - 10.0)
    assert simulated.runner.sessions("acme") == [1, 2]
    simulated.runner.exit("acme", 2, ev.Exited("acme", 2, 1))
    never_down(simulated, simulated.now + 5.0)
    assert state(simulated).session.number == 1
    assert carrying(simulated) == FIRST_LANE
    never_down(simulated, simulated.now + 300.0)
    assert state(simulated).session.number > 2


def test_the_old_session_ends_with_its_time() -> None:
    simulated = settled(Habits(second=Second.ALLOWED, flows=lambda name, now: 5))
    never_down(simulated, HOUR + 10.0)
    assert simulated.runner.sessions("acme") == [2]


@pytest.mark.slow
def test_flows_of_the_last_session_are_not_cut_short_for_the_next_one() -> None:
    early = configured(Reconnect, planned=validated(Planned, {"every": "1h", "before": "55m"}))
    simulated = World(
        {"acme": tunnel(reconnect=early)}, Habits(second=Second.ALLOWED, flows=lambda name, now: 5)
    )
    simulated.run(until=60.0)
    never_down(simulated, HOUR - 1.0)
    assert simulated.runner.sessions("acme") == [1, 2], "its limit is an hour after it was connected"
    never_down(simulated, 3 * HOUR)


@pytest.mark.parametrize("reason", [Reason.STOPPED, Reason.RESTARTED])
@pytest.mark.parametrize("when", ["coming", "leaving"])
def test_what_an_operator_asks_ends_both(reason: Reason, when: str) -> None:
    simulated = settled(Habits(second=Second.ALLOWED, connects_in=lambda: 20.0, flows=lambda name, now: 5))
    while state(simulated).standby is None or state(simulated).coming is not (when == "coming"):
        simulated.run(until=simulated.now + 1.0)
    simulated.post(ev.Asked("acme", reason=reason))
    simulated.run(until=simulated.now + 25.0)
    assert len(simulated.runner.sessions("acme")) == (reason is Reason.RESTARTED)
    assert state(simulated).standby is None
    assert state(simulated).phase is (Phase.UP if reason is Reason.RESTARTED else Phase.STOPPED)


def test_nothing_begins_without_an_uplink_or_while_draining() -> None:
    draining, cut_off = (settled(Habits(second=Second.ALLOWED, flows=lambda name, now: 1)) for _ in range(2))
    draining.engine.drain(until=2 * HOUR)
    cut_off.post(ev.UplinkChanged("", alive=False, text="no carrier"))
    for simulated in (draining, cut_off):
        simulated.run(until=HOUR)
        assert len(simulated.runner.spawned) == 1


# --- several tunnels
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_of_a_pair_only_one_reconnects_at_a_time() -> None:
    pair = {name: tunnel(name, priority=number) for number, name in enumerate(("first", "second"))}
    for seed in range(4):
        simulated = World(pair, Habits(second=Second.ALLOWED, connects_in=lambda: 50.0), seed)
        while simulated.now < 3 * HOUR:
            simulated.run(until=simulated.now + 5.0)
            assert not all(state(simulated, name).coming for name in pair)
        assert all(state(simulated, name).session.number > 1 for name in pair)


@pytest.mark.slow
def test_twenty_tunnels_do_not_go_together() -> None:
    tunnels = {f"t{n}": tunnel(f"t{n}", f"10.{n}.0.0/24") for n in range(20)}
    simulated = World(tunnels, Habits(second=Second.ALLOWED))
    simulated.run(until=HOUR)
    starts = sorted(at for at, _, number in simulated.runner.spawned if number > 1)
    assert len(starts) == 20
    assert starts[-1] - starts[0] > 100.0


# --- what is learned
# ----------------------------------------------------------------------------------------------------------


def test_a_limit_that_nobody_has_told_is_learned_and_met() -> None:
    plain = tunnel(reconnect=Reconnect())
    simulated = World({"acme": plain}, Habits(second=Second.ALLOWED, lives=lambda: 1800.0))
    simulated.run(until=5 * 1800.0)
    assert len(state(simulated).known.lengths) >= 4
    never_down(simulated, simulated.now + 4 * 1800.0)


def test_a_client_whose_sessions_never_end_is_left_alone() -> None:
    simulated = world(Habits(second=Second.ALLOWED), replace(KIND, unlimited_session=True))
    simulated.run(until=5 * HOUR)
    assert len(simulated.runner.spawned) == 1


# --- whatever happens
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 40))]
)
def test_random_histories(seed: int) -> None:
    """The doubles assert that a slot is never taken twice, and that no carry points to a lane that is
    closed while the other is open.
    """
    dice = random.Random(seed)
    habits = Habits(
        second=dice.choice([Second.ALLOWED, Second.REPLACES, Second.ENDS, Second.REFUSED]),
        connects_in=lambda: dice.choice([0.1, 1.0, 20.0, None]) if dice.random() < 0.5 else 0.5,
        lives=lambda: dice.choice([30.0, 300.0, 1000.0, float("inf")]),
        says=lambda: (
            Failed(dice.choice([Reason.NETWORK, Reason.PEER_CLOSED, Reason.HANDSHAKE]), "no")
            if dice.random() < 0.2
            else None
        ),
        obeys_sigterm=lambda: dice.random() < 0.9,
        flows=lambda name, now: dice.randrange(3),
    )
    settings = configured(Reconnect, planned=validated(Planned, {"every": "5m", "before": "1m"}))
    simulated = World({"acme": tunnel(reconnect=settings)}, habits, seed, kind=dice.choice([KIND, RENEWS]))
    for _ in range(300):
        simulated.run(until=simulated.now + dice.expovariate(1 / 20.0))
        if dice.random() < 0.1:
            simulated.post(
                dice.choice(
                    [
                        ev.Asked(
                            "acme", reason=dice.choice([Reason.STARTED, Reason.STOPPED, Reason.RESTARTED])
                        ),
                        ev.Quiet("acme"),
                        ev.Asked("acme", reason=Reason.STARTED),
                        ev.DeviceLost("acme"),
                        ev.InputsChanged("acme"),
                        ev.ReconnectDue("acme"),
                        ev.UplinkChanged("", alive=dice.random() < 0.7),
                        ev.Asked("acme", reason=Reason.STOPPED, until=simulated.now + 50.0),
                    ]
                )
            )
        now = state(simulated)
        assert len(simulated.runner.sessions("acme")) <= 2
        assert now.standby is None or now.standby.session.slot != now.session.slot
        assert now.standby is None or now.standby.session.number != now.session.number
    numbers = [number for _, _, number in simulated.runner.spawned]
    assert numbers == list(range(1, len(numbers) + 1)), "a number is never used again, and none is left out"
    habits.connects_in, habits.says, habits.obeys_sigterm = lambda: 0.5, lambda: None, lambda: True
    habits.lives = lambda: float("inf")
    simulated.post(ev.UplinkChanged("", alive=True))
    simulated.post(ev.Asked("acme", reason=Reason.STARTED))
    simulated.run(until=simulated.now + 400.0)
    assert state(simulated).phase is Phase.UP, "it always finds back"
    ended = [told.ended.session.number for told in simulated.recorder.transitions if told.ended is not None]
    begun = {number for _, _, number in simulated.runner.spawned}
    assert sorted(ended) == sorted(begun - set(simulated.runner.sessions("acme"))), "each ends exactly once"


def test_the_end_of_the_daemon_waits_for_the_flows_of_both_sessions() -> None:
    left = {"count": 3}
    simulated = settled(Habits(second=Second.ALLOWED, flows=lambda name, now: left["count"]))
    simulated.run(until=HOUR - 120.0)
    simulated.engine.drain()
    simulated.run(until=HOUR - 60.0)
    assert simulated.runner.sessions("acme") == [1, 2]
    assert all(lane.draining for lane in simulated.engine.plan.lanes)
    assert waits_for(simulated.engine.snapshot) == "acme 3 flows, acme (replaced session) 3 flows"
    left["count"] = 0
    simulated.run(until=HOUR - 10.0)
    assert simulated.runner.sessions("acme") == []
    assert all_stopped(simulated.engine.snapshot)


def test_an_end_at_once_ends_both() -> None:
    simulated = settled(Habits(second=Second.ALLOWED, flows=lambda name, now: 3))
    simulated.run(until=HOUR - 120.0)
    simulated.engine.drain()
    simulated.run(until=HOUR - 119.0)
    simulated.post(ev.Asked("acme", reason=Reason.SHUTDOWN))
    simulated.run(until=HOUR - 118.0)
    assert all_stopped(simulated.engine.snapshot)
