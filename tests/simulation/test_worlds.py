"""The engine with virtual time: years of drops, worlds that never work, and the incidents that follow."""

from __future__ import annotations

import random

import pytest

from supervisor.core.events import Asked, Noticed
from supervisor.core.network.compose import Scope
from supervisor.core.state import Phase
from tests.fakes import Habits, World
from tests.settings import configured
from tunnels.base import Failed, Reason
from tunnels.settings import Login, Probe, Tunnel

HOUR, DAY = 3600.0, 86400.0


def tunnel(name: str = "acme", **settings: object) -> Tunnel:
    settings.setdefault("probe", Probe(targets=("icmp://10.77.0.1",)))
    return configured(Tunnel, name=name, kind="test", destinations=("10.77.0.0/24",), **settings)


def world(habits: Habits, **settings: object) -> World:
    return World({"acme": tunnel(**settings)}, habits)


@pytest.mark.slow
def test_a_year_of_drops() -> None:
    """Drops about every four hours, sometimes hangs while starting or ignores SIGTERM; nobody has to act."""
    dice = random.Random(7)
    simulated = world(
        Habits(
            connects_in=lambda: None if dice.random() < 0.02 else 0.5,
            lives=lambda: dice.expovariate(1 / (4 * 3600)),
            obeys_sigterm=lambda: dice.random() > 0.1,
        ),
        probe=Probe(),
    )
    simulated.run(until=365 * DAY)
    sessions = len(simulated.runner.spawned)
    down = sum(t.lasted for t in simulated.recorder.transitions if t.before is not Phase.UP)
    assert 1500 < sessions < 3000
    assert down / (365 * DAY) < 0.001
    assert simulated.phase() is Phase.UP
    assert Phase.FAILED not in {t.after for t in simulated.recorder.transitions}


def test_every_transition_has_a_reason_and_follows_the_one_before() -> None:
    dice = random.Random(3)
    simulated = world(Habits(lives=lambda: dice.uniform(1, 300)))
    simulated.run(until=DAY / 4)
    transitions = simulated.recorder.transitions
    assert all(isinstance(t.reason, Reason) for t in transitions)
    assert all(a.after is b.before for a, b in zip(transitions, transitions[1:], strict=False))


@pytest.mark.parametrize("targets", [(), ("icmp://10.77.0.1",)])
def test_silent_drop_is_noticed_within_eleven_seconds_where_it_is_probed(targets: tuple[str, ...]) -> None:
    """Worst case: the path dies right after an answered round."""
    for offset in range(50):
        died = 100.0 + offset / 10
        simulated = world(Habits(path_alive=lambda now, died=died: now < died), probe=Probe(targets=targets))
        simulated.run(until=died + 11.0)
        noticed = [t.at for t in simulated.recorder.transitions if t.reason is Reason.UNHEALTHY]
        assert (len(noticed) >= 1) is bool(targets)
        assert all(6.0 - 2.0 <= at - died <= 11.0 for at in noticed[:1])


def test_a_dead_far_side_is_knocked_at_ever_more_rarely_but_for_ever() -> None:
    simulated = world(Habits(connects_in=lambda: None))
    simulated.run(until=DAY)
    starts = [at for at, _, _ in simulated.runner.spawned]
    assert 24 * 3600 / (60 + 120 + 7) < len(starts) < 24 * 3600 / (60 + 5 + 30)
    assert starts[-1] > DAY - 200
    assert simulated.alerter.opened == ["acme"]


def test_a_wrong_password_means_three_attempts_in_a_simulated_day_and_one_incident_at_once() -> None:
    simulated = world(Habits(says=lambda: Failed(Reason.AUTH, "AUTH_FAILED")), login=Login(max_attempts=3))
    simulated.run(until=200.0)
    assert (simulated.phase(), simulated.alerter.opened) == (Phase.FAILED, ["acme"])
    simulated.run(until=DAY)
    assert len(simulated.runner.spawned) == 3


def test_an_incident_waits_for_after_and_is_resolved_after_clear_after() -> None:
    outage = (1000.0, 1400.0)
    simulated = world(Habits(path_alive=lambda now: not outage[0] <= now < outage[1]))
    simulated.run(until=outage[0] + 11.0 + 179.0 - 7.0)
    assert simulated.alerter.opened == []
    simulated.run(until=outage[1] + 120.0)
    assert simulated.alerter.resolved == []
    simulated.run(until=outage[1] + 600.0)
    assert (simulated.alerter.opened, simulated.alerter.resolved) == (["acme"], ["acme"])


def test_a_short_outage_calls_nobody() -> None:
    simulated = world(Habits(path_alive=lambda now: not 1000.0 <= now < 1060.0))
    simulated.run(until=4000.0)
    assert simulated.alerter.opened == []


def test_a_removed_tunnel_is_stopped_and_then_forgotten_everywhere() -> None:
    simulated = World({"acme": tunnel(), "other": tunnel("other")}, Habits())
    simulated.run(until=10.0)
    simulated.engine.configure(Scope("sim", ()), {"acme": tunnel()}, held=())
    assert "other" in {lane.tunnel for lane in simulated.engine.plan.lanes}, (
        "fail-closed until its client is gone"
    )
    simulated.run(until=20.0)
    assert set(simulated.engine.snapshot.tunnels) == {"acme"}
    assert {lane.tunnel for lane in simulated.engine.plan.lanes} == {"acme"}
    assert set(simulated.runner.alive) == {"acme"}


def test_a_held_tunnel_leaves_the_kernel_too_when_it_is_removed() -> None:
    simulated = World({"acme": tunnel(), "globex": tunnel("globex")}, Habits())
    simulated.run(until=10.0)
    simulated.post(Asked("globex", reason=Reason.STOPPED))
    simulated.run(until=20.0)
    simulated.engine.configure(Scope("sim", ()), {"acme": tunnel()}, held={"globex"})
    simulated.run(until=30.0)
    assert [lane.tunnel for lane in simulated.network.plans[-1].lanes] == ["acme"]


def test_a_tunnel_that_is_being_removed_cannot_be_wished_back() -> None:
    simulated = world(Habits())
    simulated.run(until=10.0)
    simulated.engine.configure(Scope("sim", ()), {}, held=())
    for reason in (Reason.STARTED, Reason.RESTARTED):
        simulated.post(Asked("acme", reason=reason))
    simulated.run(until=20.0)
    assert (dict(simulated.engine.snapshot.tunnels), simulated.runner.alive) == ({}, {})


def test_a_tunnel_that_comes_back_while_it_is_being_removed_runs_again() -> None:
    simulated = world(Habits())
    simulated.run(until=10.0)
    simulated.engine.configure(Scope("sim", ()), {}, held=())
    simulated.engine.configure(Scope("sim", ()), {"acme": tunnel()}, held=())
    simulated.run(until=30.0)
    assert (simulated.phase(), simulated.runner.alive) == (Phase.UP, {"acme": 2})


def test_a_held_tunnel_does_not_start_by_itself() -> None:
    simulated = world(Habits())
    simulated.engine.configure(Scope("sim", ()), {"acme": tunnel(), "held": tunnel("held")}, held={"held"})
    simulated.run(until=HOUR)
    assert simulated.phase("held") is Phase.STOPPED
    simulated.post(Asked("held", reason=Reason.STARTED))
    simulated.run(until=HOUR + 10)
    assert simulated.phase("held") is Phase.UP


def test_the_spare_takes_over_at_the_verdict_and_gives_back_only_to_a_proven_tunnel() -> None:
    """The main tunnel's path dies for two minutes; the spare has its own."""
    main, spare = tunnel("main", priority=100), tunnel("spare", priority=200)
    simulated = World({"main": main, "spare": spare}, Habits())
    dead = (1000.0, 1120.0)
    simulated.habits.path_alive = lambda now: (
        not (dead[0] <= now < dead[1] and simulated.prober.asking == "main")
    )
    carriers = []
    for moment in (990.0, 1011.0, 1125.0, 1400.0):
        simulated.run(until=moment)
        (carry,) = simulated.engine.plan.carries
        carriers.append(
            next(lane.tunnel for lane in simulated.engine.plan.lanes if lane.number == carry.lane)
        )
    assert carriers == ["main", "spare", "spare", "main"]


def test_a_condition_of_the_kernel_is_an_incident_while_it_lasts() -> None:
    simulated = world(Habits())
    simulated.run(until=10.0)
    simulated.network.conditions["kernel:fight"] = "another program keeps changing facilitator's kernel state"
    simulated.post(Noticed(""))
    simulated.run(until=11.0)
    assert simulated.alerter.open == {"kernel:fight"}
    simulated.network.conditions.clear()
    simulated.post(Noticed(""))
    simulated.run(until=70.0)
    assert simulated.alerter.open == {"kernel:fight"}
    simulated.run(until=72.0)
    assert simulated.alerter.open == set()


def test_changed_settings_that_need_no_restart_disturb_nothing() -> None:
    simulated = world(Habits())
    simulated.run(until=100.0)
    changed = tunnel(priority=7, probe=Probe(targets=("icmp://10.77.0.2",)))
    simulated.engine.configure(Scope("sim", ()), {"acme": changed}, held=())
    simulated.run(until=200.0)
    assert len(simulated.runner.spawned) == 1
    assert simulated.prober.jobs["acme"].probe == changed.probe
