"""Blame in virtual time: what is dead behind a tunnel costs it nothing, and calls somebody once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from supervisor.core.state import Health, Phase, Proof
from tests.fakes import Habits, World
from tests.settings import configured
from tunnels.base import Reason
from tunnels.settings import Destination, Probe, Tunnel


def tunnel(name: str, network: str = "10.77.0.0/24", **settings: object) -> Tunnel:
    return configured(
        Tunnel,
        name=name,
        kind="test",
        destinations=(network,),
        probe=Probe(targets=("icmp://10.77.0.1",)),
        **settings,
    )


def world(habits: Habits, **tunnels: Tunnel) -> World:
    return World(tunnels or {"acme": tunnel("acme")}, habits)


def between(begin: float, end: float) -> Callable[[float], bool]:
    return lambda now: not begin <= now < end


@pytest.mark.slow
def test_a_destination_that_is_dead_for_a_day_costs_no_session_and_calls_once() -> None:
    simulated = world(Habits(path_alive=between(1000.0, 87_400.0), proof=lambda now: Proof.ANSWERED))
    simulated.run(until=87_000.0)
    state = simulated.engine.snapshot.tunnels["acme"][1]
    assert (state.phase, state.health, state.reason) == (Phase.UP, Health.UNHEALTHY, Reason.DESTINATION)
    assert len(simulated.runner.spawned) == 1
    alert = simulated.alerter.alerts["acme"]
    assert "its destination is dead: destination: the tunnel works (its remote end answers)" in alert.summary
    assert "icmp://10.77.0.1" in alert.summary
    assert alert.details["dead_leg"].startswith("destination:")
    simulated.run(until=90_000.0)
    assert (simulated.alerter.opened, simulated.alerter.resolved, len(simulated.runner.spawned)) == (
        ["acme"],
        ["acme"],
        1,
    )
    told = [
        (t.health, t.reason, t.leg) for t in simulated.recorder.transitions if t.before is t.after is Phase.UP
    ]
    assert told == [
        (Health.HEALTHY, Reason.HEALTHY, None),
        (Health.UNHEALTHY, Reason.DESTINATION, "destination"),
        (Health.HEALTHY, Reason.HEALTHY, None),
    ]


@pytest.mark.slow
def test_packets_that_answer_nobody_save_a_session_for_five_minutes_and_the_next_one_for_good() -> None:
    simulated = world(Habits(path_alive=between(1000.0, 20_000.0), proof=lambda now: Proof.RECEIVED))
    simulated.run(until=1000.0 + 290.0)
    assert len(simulated.runner.spawned) == 1
    simulated.run(until=19_000.0)
    assert len(simulated.runner.spawned) == 2


def test_when_the_tunnel_dies_too_it_is_given_up_soon() -> None:
    simulated = world(
        Habits(
            path_alive=between(1000.0, 20_000.0), proof=lambda now: Proof.ANSWERED if now < 5000.0 else None
        )
    )
    simulated.run(until=5000.0)
    assert len(simulated.runner.spawned) == 1
    simulated.run(until=5000.0 + 16.0)
    assert len(simulated.runner.spawned) == 2


def test_a_spare_takes_over_the_destination_that_only_one_tunnel_cannot_reach() -> None:
    habits = Habits(proof=lambda now: Proof.ANSWERED)
    simulated = world(habits, first=tunnel("first", priority=1), spare=tunnel("spare", priority=2))
    habits.path_alive = lambda now: simulated.prober.asking != "first" or not 1000.0 <= now < 2000.0
    destination = configured(Destination, network="10.77.0.0/24").staff_side

    def carrier() -> str:
        lanes = {lane.number: lane.tunnel for lane in simulated.engine.plan.lanes}
        return next(
            lanes[carry.lane] for carry in simulated.engine.plan.carries if carry.network == destination
        )

    simulated.run(until=999.0)
    assert carrier() == "first"
    simulated.run(until=1000.0 + 12.0)
    assert carrier() == "spare"
    simulated.run(until=2200.0)
    assert carrier() == "first"
    assert len(simulated.runner.spawned) == 2


def test_a_tunnel_that_loses_every_fourth_round_warns_once_and_restarts_nothing() -> None:
    simulated = world(Habits())
    rounds = [0]

    def every_fourth(now: float) -> bool:
        rounds[0] += 1
        return not (1000.0 <= now < 4000.0 and rounds[0] % 4 == 0)

    simulated.habits.path_alive = every_fourth
    simulated.run(until=1100.0)
    assert simulated.alerter.opened == []
    simulated.run(until=3900.0)
    assert simulated.alerter.opened == ["degraded:acme"]
    alert = simulated.alerter.alerts["degraded:acme"]
    assert (alert.severity, alert.members) == ("warning", ("acme",))
    assert "is degraded: " in alert.summary
    assert "probe rounds unanswered" in alert.summary
    simulated.run(until=6000.0)
    assert (simulated.alerter.resolved, len(simulated.runner.spawned)) == (["degraded:acme"], 1)
