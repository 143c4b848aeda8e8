"""Drains in virtual time: what is in a tunnel goes on, nothing new enters it, and it ends when nothing is
left.
"""

from __future__ import annotations

import random

import pytest

from supervisor.app.shutdown import all_stopped
from supervisor.core import events as ev
from supervisor.core.network.plan import NetworkPlan
from supervisor.core.state import Drain, Phase, TunnelState, Want
from tests.fakes import Habits, World
from tests.settings import configured
from tunnels.base import Failed, Reason
from tunnels.settings import Probe, Tunnel

STOP, SHUTDOWN = Reason.STOPPED, Reason.SHUTDOWN


def tunnel(name: str = "acme", network: str = "10.77.0.0/24", **settings: object) -> Tunnel:
    return configured(
        Tunnel,
        name=name,
        kind="test",
        destinations=(network,),
        probe=Probe(targets=("icmp://10.77.0.1",)),
        **settings,
    )


def world(habits: Habits, *more: Tunnel) -> World:
    simulated = World({each.name: each for each in (tunnel(), *more)}, habits)
    simulated.run(until=100.0)
    return simulated


def state(simulated: World, name: str = "acme") -> TunnelState:
    return simulated.engine.snapshot.tunnels[name][1]


def plan(simulated: World) -> NetworkPlan:
    return simulated.network.plans[-1]


def drain(simulated: World, name: str = "acme", reason: Reason = STOP, within: float = 3600.0) -> None:
    simulated.post(ev.Asked(name, reason=reason, until=simulated.now + within))
    simulated.run(until=simulated.now)


def test_it_ends_when_its_flows_are_over() -> None:
    simulated = world(Habits(flows=lambda name, now: 3 if now < 500.0 else 0))
    drain(simulated)
    assert plan(simulated).lanes[0].draining
    assert plan(simulated).lanes[0].up
    simulated.run(until=499.0)
    assert state(simulated).drain == Drain(STOP, 3700.0, 3)
    assert (state(simulated).phase, state(simulated).want) == (Phase.UP, Want.UP)
    simulated.run(until=502.0)
    assert (state(simulated).phase, state(simulated).reason, state(simulated).drain) == (
        Phase.STOPPED,
        STOP,
        None,
    )
    assert not plan(simulated).lanes[0].draining


def test_without_flows_it_ends_at_once() -> None:
    simulated = world(Habits())
    drain(simulated, reason=SHUTDOWN)
    simulated.run(until=100.1)
    assert (state(simulated).phase, state(simulated).reason) == (Phase.STOPPED, SHUTDOWN)


def test_it_ends_when_the_time_is_over() -> None:
    simulated = world(Habits(flows=lambda name, now: 1))
    drain(simulated, within=50.0)
    simulated.run(until=149.9)
    assert state(simulated).phase is Phase.UP
    simulated.run(until=150.1)
    assert state(simulated).phase is Phase.STOPPED


def test_it_is_kept_up_meanwhile() -> None:
    simulated = world(Habits(flows=lambda name, now: 1, lives=lambda: 40.0))
    sessions = state(simulated).session.number
    drain(simulated)
    simulated.run(until=1000.0)
    assert state(simulated).session.number > sessions + 5
    assert state(simulated).drain is not None
    assert plan(simulated).lanes[0].draining


def test_one_that_waits_for_a_human_holds_up_nothing() -> None:
    habits = Habits(flows=lambda name, now: 1, lives=lambda: 200.0)
    simulated = world(habits)
    drain(simulated)
    habits.says = lambda: Failed(Reason.CERTIFICATE, "expired")
    simulated.run(until=400.0)
    assert (state(simulated).phase, state(simulated).reason, state(simulated).want) == (
        Phase.STOPPED,
        STOP,
        Want.DOWN,
    )


@pytest.mark.parametrize(
    ("asked", "phase"), [(Reason.STARTED, Phase.UP), (STOP, Phase.STOPPED), (Reason.RESTARTED, Phase.UP)]
)
def test_another_wish_takes_it_back(asked: Reason, phase: Phase) -> None:
    simulated = world(Habits(flows=lambda name, now: 1))
    drain(simulated)
    simulated.run(until=110.0)
    simulated.post(ev.Asked("acme", reason=asked))
    simulated.run(until=112.0)
    assert (state(simulated).phase, state(simulated).drain) == (phase, None)
    assert not plan(simulated).lanes[0].draining
    assert not simulated.flows.jobs


def test_new_flows_go_to_another_tunnel_that_can_and_come_back() -> None:
    simulated = world(Habits(flows=lambda name, now: 1), tunnel("spare", priority=200))
    lanes = {lane.tunnel: lane.number for lane in plan(simulated).lanes}
    assert [carry.lane for carry in plan(simulated).carries] == [lanes["acme"]]
    drain(simulated)
    assert [carry.lane for carry in plan(simulated).carries] == [lanes["spare"]]
    assert all(lane.up for lane in plan(simulated).lanes)
    simulated.post(ev.Asked("acme", reason=Reason.STARTED))
    simulated.run(until=simulated.now)
    assert [carry.lane for carry in plan(simulated).carries] == [lanes["acme"]]


def test_where_all_drain_the_best_goes_on() -> None:
    simulated = world(Habits(flows=lambda name, now: 1), tunnel("spare", priority=200))
    for name in ("acme", "spare"):
        drain(simulated, name, SHUTDOWN)
    lanes = {lane.tunnel: lane.number for lane in plan(simulated).lanes}
    assert all(lane.draining for lane in plan(simulated).lanes)
    assert plan(simulated).carries[0].lane in lanes.values()
    simulated.post(ev.DeviceLost("acme"))
    simulated.run(until=simulated.now + 0.01)
    assert [carry.lane for carry in plan(simulated).carries] == [lanes["spare"]]


def test_nobody_is_called_for_what_is_to_end() -> None:
    habits = Habits(flows=lambda name, now: 1)
    simulated = world(habits)
    drain(simulated)
    habits.path_alive = lambda now: False
    simulated.run(until=3000.0)
    assert simulated.alerter.opened == []


# --- the daemon is killed meanwhile
# -------------------------------------------------------------------------------------------------


def closed(simulated: World) -> bool:
    """No lane takes a new flow."""
    return all(lane.draining or not lane.up for lane in plan(simulated).lanes)


def ending(left: dict[str, int]) -> World:
    """Two tunnels; the daemon began to end 100 s ago, and the time is up at 3700."""
    simulated = world(Habits(flows=lambda name, now: left[name]), tunnel("cloud", "10.79.0.0/24"))
    simulated.engine.drain(3700.0)
    simulated.run(until=200.0)
    return simulated


def test_the_next_daemon_goes_on_with_it_to_the_end() -> None:
    left = {"acme": 2, "cloud": 0}
    simulated = ending(left)
    session, spawned = state(simulated).session, len(simulated.runner.spawned)
    before = len(simulated.network.plans)
    simulated.crash(ends_by=3700.0)
    simulated.run(until=250.0)
    assert simulated.engine.draining
    assert state(simulated).session == session
    assert state(simulated).drain == Drain(SHUTDOWN, 3700.0, 2)
    assert (state(simulated, "cloud").phase, state(simulated, "cloud").want) == (Phase.STOPPED, Want.DOWN)
    assert all(
        lane.draining for each in simulated.network.plans[before:] for lane in each.lanes if lane.up
    ), "at no time it takes a flow"
    left["acme"] = 0
    simulated.run(until=260.0)
    assert all_stopped(simulated.engine.snapshot)
    assert len(simulated.runner.spawned) == spawned


@pytest.mark.slow
def test_the_time_counts_from_its_beginning() -> None:
    simulated = ending({"acme": 2, "cloud": 1})
    for _ in range(5):
        simulated.crash(ends_by=3700.0)
        simulated.run(until=simulated.now + 700.0)
    assert simulated.now == 3700.0
    simulated.run(until=3701.0)
    assert all_stopped(simulated.engine.snapshot)


@pytest.mark.slow
def test_whatever_the_moments_nothing_new_is_taken() -> None:
    dice = random.Random(1)
    for _ in range(50):
        simulated = ending({"acme": 2, "cloud": 1})
        while simulated.now < 600.0:
            simulated.crash(
                lost=[place for place in list(simulated.runner.alive) if dice.random() < 0.2], ends_by=3700.0
            )
            assert closed(simulated)
            simulated.run(until=simulated.now + dice.choice([0.0, 0.01, 1.0, 60.0]) * dice.random() + 0.001)
            assert closed(simulated)


def test_a_drain_that_was_called_off_is_forgotten() -> None:
    simulated = ending({"acme": 2, "cloud": 0})
    session = state(simulated).session
    simulated.crash()
    simulated.run(until=250.0)
    assert not simulated.engine.draining
    assert [lane.up and not lane.draining for lane in plan(simulated).lanes] == [True, True]
    assert state(simulated).session == session
