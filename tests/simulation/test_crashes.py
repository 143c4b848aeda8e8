"""The daemon dies at any moment, and another one goes on, in virtual time: no client runs twice, none is
given up, no login is repeated.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config.validation import validated
from supervisor.core.events import Asked
from supervisor.core.session.record import PreviousRun, TunnelRecord, revive
from supervisor.core.state import Drain, Health, Phase, Second, Session, TunnelState, Want
from tests.fakes import KIND, Habits, World
from tests.settings import configured
from tests.states import but, tunnel_state
from tunnels.base import Failed, Reason
from tunnels.settings import AlertSettings, Login, Planned, Probe, Reconnect, Secret, Tunnel

pytestmark = pytest.mark.slow


def tunnel(name: str = "acme", **settings: object) -> Tunnel:
    settings.setdefault("probe", Probe(targets=("icmp://10.77.0.1",)))
    return configured(Tunnel, name=name, kind="test", destinations=("10.77.0.0/24",), **settings)


def test_what_is_well_stays_well_and_nothing_happens_to_it() -> None:
    simulated = World({"acme": tunnel()}, Habits())
    simulated.run(until=100.0)
    before, told = simulated.engine.snapshot.tunnels["acme"][1], len(simulated.recorder.transitions)
    for moment in range(101, 130):
        simulated.crash()
        simulated.run(until=float(moment))
    after = simulated.engine.snapshot.tunnels["acme"][1]
    assert (after.session, after.since, after.well_since, after.health) == (
        before.session,
        before.since,
        before.well_since,
        Health.HEALTHY,
    )
    assert len(simulated.runner.spawned) == 1
    assert len(simulated.recorder.transitions) == told
    assert simulated.alerter.opened == []
    assert after.liveness.last_rtt is not None, "it is probed"


def test_a_client_that_died_meanwhile_is_started_anew_at_once() -> None:
    simulated = World({"acme": tunnel(reconnect=configured(Reconnect, stable_after="10s"))}, Habits())
    simulated.run(until=100.0)
    simulated.crash(lost=("acme",))
    simulated.run(until=100.1)
    assert [session for _, _, session in simulated.runner.spawned] == [1, 2]
    end = next(
        each for each in simulated.recorder.transitions if each.ended and each.ended.session.number == 1
    )
    assert (end.reason, end.text) == (Reason.EXITED, "client ended, and nobody saw how")


@pytest.mark.parametrize("every", [3.0, 7.0, 45.0])
def test_a_crash_loop_does_not_multiply_logins(every: float) -> None:
    """The account would be locked; what was refused is remembered, and so is when the next attempt may be."""
    login = Login(username="svc", password=Secret(file="password"), max_attempts=3)
    tunnels = {name: tunnel(name, login=login) for name in ("a", "b")}
    simulated = World(tunnels, Habits(says=lambda: Failed(Reason.AUTH, "AUTH_FAILED")))
    while simulated.now < 3600.0:
        simulated.crash()
        simulated.run(until=simulated.now + every)
    assert len(simulated.runner.spawned) == 3
    assert {simulated.phase(name) for name in tunnels} == {Phase.FAILED}


def test_a_ban_and_a_backoff_outlive_the_daemon() -> None:
    habits = Habits(says=lambda: Failed(Reason.BANNED, "go away"))
    simulated = World(
        {name: tunnel(name) for name in ("a", "b")}, habits, kind=replace(KIND, endpoint=lambda t: "gw")
    )
    simulated.run(until=5.0)
    attempts = len(simulated.runner.spawned)
    for _ in range(50):
        simulated.crash()
        simulated.run(until=simulated.now + 10.0)
    assert len(simulated.runner.spawned) == attempts


def test_other_settings_end_the_client_properly_and_start_it_anew() -> None:
    simulated = World({"acme": tunnel(), "other": tunnel("other")}, Habits())
    simulated.run(until=100.0)
    simulated.crash(restart=("acme",))
    simulated.run(until=110.0)
    assert [(name, session) for _, name, session in simulated.runner.spawned] == [
        ("acme", 1),
        ("other", 1),
        ("acme", 2),
    ]
    assert simulated.phase() is Phase.UP


def test_a_stop_that_was_under_way_is_finished() -> None:
    simulated = World({"acme": tunnel()}, Habits(obeys_sigterm=lambda: False))
    simulated.run(until=100.0)
    simulated.post(Asked("acme", reason=Reason.RESTARTED))
    simulated.run(until=101.0)
    assert simulated.phase() is Phase.STOPPING
    simulated.crash()
    simulated.run(until=120.0)
    assert (simulated.phase(), len(simulated.runner.spawned)) == (Phase.UP, 2)


def test_nobody_is_paged_for_a_crash_and_an_incident_goes_on() -> None:
    habits = Habits(path_alive=lambda now: now < 200.0)
    settings = {"alert": configured(AlertSettings, after="60s", clear_after="60s")}
    simulated = World({"acme": tunnel(**settings)}, habits)
    for moment in range(10, 500, 10):
        simulated.run(until=float(moment))
        simulated.crash()
    assert simulated.alerter.opened == ["acme"]
    opened = next(
        t.at
        for t in simulated.recorder.transitions
        if t.health is Health.UNHEALTHY or t.after is not Phase.UP and t.at > 200.0
    )
    assert 200.0 < opened < 215.0


def test_a_planned_reconnect_goes_on_over_crashes() -> None:
    """Both sessions are gone on with, on their slots, and the old one still carries its flows to their
    end.
    """
    left = {"count": 2}
    planned = configured(Reconnect, planned=validated(Planned, {"every": "1h", "before": "5m"}))
    simulated = World(
        {"acme": tunnel(reconnect=planned)},
        Habits(second=Second.ALLOWED, flows=lambda name, now: left["count"]),
    )
    simulated.run(until=3000.0)
    while simulated.now < 3500.0:
        simulated.run(until=simulated.now + 7.0)
        simulated.crash()
        assert simulated.phase() is Phase.UP
    first, *_, last = simulated.runner.sessions("acme")
    assert (first, last > first) == (1, True), "the old one has flows"
    assert [lane.up for lane in simulated.engine.plan.lanes] == [True, True]
    left["count"] = 0
    simulated.run(until=simulated.now + 200.0)
    simulated.crash()
    simulated.run(until=simulated.now + 10.0)
    assert simulated.runner.sessions("acme") == [last]
    assert simulated.alerter.opened == []


@given(st.integers(0, 10_000))
def test_whenever_the_daemon_dies(seed: int) -> None:
    """At most one client for each slot (the double insists on it); the numbers of sessions only grow; in
    the end all is well.
    """
    dice = random.Random(seed)
    habits = Habits(
        connects_in=lambda: dice.choice((0.1, 0.5, 3.0)),
        lives=lambda: dice.uniform(1.0, 300.0),
        obeys_sigterm=lambda: dice.random() < 0.7,
        path_alive=lambda now: now > 500.0 or int(now / 20.0) % 4 > 0,
    )
    simulated = World({name: tunnel(name) for name in ("a", "b")}, habits, seed)
    while simulated.now < 500.0:
        simulated.run(until=simulated.now + dice.uniform(0.0, 30.0))
        if dice.random() < 0.2:
            simulated.post(
                Asked(
                    dice.choice("ab"), reason=dice.choice((Reason.RESTARTED, Reason.STOPPED, Reason.STARTED))
                )
            )
        simulated.crash(lost=[place for place in list(simulated.runner.alive) if dice.random() < 0.1])
    habits.lives = lambda: float("inf")
    simulated.run(until=simulated.now + 900.0)
    assert {simulated.phase(name) for name in "ab"} == {Phase.UP}
    for name in "ab":
        numbers = [session for _, each, session in simulated.runner.spawned if each == name]
        assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(("state", "held", "news"), [
    (tunnel_state(phase=Phase.UP), True, [Reason.STOPPED]),
    (tunnel_state(phase=Phase.UP, want=Want.DOWN), False, [Reason.CONFIGURED]),
    (tunnel_state(phase=Phase.STOPPED, want=Want.DOWN), True, []),
    (tunnel_state(phase=Phase.STOPPED, want=Want.DOWN), False, [Reason.CONFIGURED]),
    (tunnel_state(phase=Phase.UP, drain=Drain(Reason.STOPPED, 900.0)), True, []),
    (tunnel_state(phase=Phase.FAILED), False, []),
])  # fmt: skip
def test_wishes_of_a_time_without_a_daemon(state: TunnelState, held: bool, news: list[Reason]) -> None:
    state = but(state, session=Session(4), next_number=5)
    begun = revive(
        "acme",
        PreviousRun({"acme": TunnelRecord(state, 173_001)}, {("acme", 4)}),
        KIND,
        100.0,
        held=held,
        anew=False,
    )
    assert [event.reason for event in begun.events if isinstance(event, Asked)] == news
    assert begun.state.session.number == 4


@pytest.mark.parametrize(("ends_by", "held", "left"), [
    (900.0, False, Drain(Reason.SHUTDOWN, 900.0)),      # the order holds
    (None, False, None),                                # it was called off
    (None, True, Drain(Reason.STOPPED, 900.0)),         # but this one had been stopped before
])  # fmt: skip
def test_what_drained_for_the_end_of_the_daemon(
    ends_by: float | None, held: bool, left: Drain | None
) -> None:
    state = tunnel_state(phase=Phase.UP, session=Session(4), drain=Drain(Reason.SHUTDOWN, 900.0))
    memory = PreviousRun({"acme": TunnelRecord(state, 173_001)}, {("acme", 4)}, ends_by=ends_by)
    begun = revive("acme", memory, KIND, 100.0, held=held, anew=True)
    assert begun.state.drain == left
    assert (Reason.SHUTDOWN in [event.reason for event in begun.events if isinstance(event, Asked)]) is (
        ends_by is not None
    )
