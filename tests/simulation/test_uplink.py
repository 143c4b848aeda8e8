"""The host's own way out dies: one incident about that, no client ended, and no stampede afterwards."""

from __future__ import annotations

import pytest

from supervisor.core import events as ev
from supervisor.core.state import Health, Phase
from tests.fakes import Habits, World
from tests.settings import configured
from tunnels.base import Failed, Reason
from tunnels.settings import Probe, Tunnel

CUT, BACK = 1000.0, 1600.0


def world(count: int, habits: Habits) -> World:
    tunnels = {
        f"t{n}": configured(
            Tunnel,
            name=f"t{n}",
            kind="test",
            destinations=(f"10.{n}.0.0/24",),
            probe=Probe(targets=(f"icmp://10.{n}.0.1",)),
        )
        for n in range(count)
    }
    return World(tunnels, habits)


def dead(now: float) -> bool:
    return CUT <= now < BACK


def cut_and_back(simulated: World) -> None:
    simulated.run(until=CUT + 6.0)
    simulated.post(ev.UplinkChanged("", alive=False, text="eth0 has no carrier"))
    simulated.run(until=BACK + 6.0)
    simulated.post(ev.UplinkChanged("", alive=True))


@pytest.mark.slow
def test_one_incident_names_the_uplink_and_no_client_is_restarted() -> None:
    simulated = world(20, Habits(path_alive=lambda now: not dead(now)))
    cut_and_back(simulated)
    assert simulated.alerter.opened == ["uplink"]
    assert "eth0 has no carrier" in simulated.alerter.alerts["uplink"].summary
    assert {state.health for _, state in simulated.engine.snapshot.tunnels.values()} <= {
        Health.UNHEALTHY,
        Health.HEALTHY,
    }
    simulated.run(until=BACK + 600.0)
    assert (simulated.alerter.opened, simulated.alerter.resolved) == (["uplink"], ["uplink"])
    assert len(simulated.runner.spawned) == 20
    assert {state.health for _, state in simulated.engine.snapshot.tunnels.values()} == {Health.HEALTHY}


def test_clients_that_ended_meanwhile_wait_and_then_do_not_all_start_at_once() -> None:
    simulated = world(20, Habits(path_alive=lambda now: not dead(now), lives=lambda: 1100.0 - simulated.now))
    simulated.run(until=CUT)
    simulated.habits.lives = lambda: float("inf")
    cut_and_back(simulated)
    started = [at for at, _, _ in simulated.runner.spawned if at > CUT]
    assert [at for at in started if at < BACK] == []
    simulated.run(until=BACK + 60.0)
    started = [at for at, _, _ in simulated.runner.spawned if at > CUT]
    assert len(started) == 20
    assert max(started) - min(started) > 0.5
    assert max(sum(at <= other < at + 0.45 for other in started) for at in started) <= 20
    assert {simulated.phase(name) for name in simulated.engine.snapshot.tunnels} == {Phase.UP}


def test_a_tunnel_that_does_not_come_back_has_its_own_incident_then() -> None:
    simulated = world(2, Habits(path_alive=lambda now: not dead(now)))
    cut_and_back(simulated)
    simulated.habits.path_alive = lambda now: simulated.prober.asking != "t1"
    simulated.habits.says = lambda: Failed(Reason.NETWORK, "no")
    simulated.run(until=BACK + 6.0 + 179.0)
    assert simulated.alerter.opened == ["uplink"]
    simulated.run(until=BACK + 6.0 + 200.0)
    assert simulated.alerter.opened == ["uplink", "t1"]


def test_while_the_uplink_is_in_doubt_no_session_is_given_up() -> None:
    """Fast probes of a tunnel fail before it is known that the uplink has failed."""
    simulated = world(1, Habits(path_alive=lambda now: now < CUT))
    simulated.post(ev.UplinkDoubted("", doubted=True))
    simulated.run(until=CUT + 60.0)
    assert len(simulated.runner.spawned) == 1
    simulated.post(ev.UplinkDoubted("", doubted=False))
    simulated.run(until=CUT + 75.0)
    assert len(simulated.runner.spawned) > 1, "afterwards it is judged"
