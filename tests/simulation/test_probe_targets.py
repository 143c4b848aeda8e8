"""One dead target beside a living one, and users' packets beside dead targets, in virtual time."""

from __future__ import annotations

from supervisor.core import events as ev
from supervisor.core.session.probe_targets import answers, dead_targets
from supervisor.core.state import Health, Phase, Proof, Reach, TunnelState
from tests.fakes import Habits, World
from tests.settings import configured
from tunnels.base import Reason
from tunnels.settings import Probe, Tunnel

DEAD, LIVING = "icmp://10.77.0.9", "icmp://10.77.0.1"
FROM, UNTIL = 1000.0, 4000.0


def world(habits: Habits) -> World:
    probe = Probe(targets=(DEAD, LIVING))
    tunnel = configured(Tunnel, name="acme", kind="test", destinations=("10.77.0.0/24",), probe=probe)
    return World({"acme": tunnel}, habits)


def state(simulated: World) -> TunnelState:
    return simulated.engine.snapshot.tunnels["acme"][1]


def test_one_dead_target_beside_a_living_one_warns_once_and_restarts_nothing() -> None:
    simulated = world(Habits(silent=lambda now: (DEAD,) if FROM <= now < UNTIL else ()))
    simulated.run(until=FROM + 8.0)
    assert dead_targets(state(simulated).liveness) == (), "two rounds prove nothing"
    simulated.run(until=FROM + 30.0)
    assert [each.target for each in dead_targets(state(simulated).liveness)] == [DEAD]
    assert (answers(state(simulated), DEAD), answers(state(simulated), LIVING)) == (False, True)
    assert simulated.alerter.opened == [], "alert.after is not over"
    simulated.run(until=UNTIL)
    assert (state(simulated).phase, state(simulated).health) == (Phase.UP, Health.HEALTHY)
    assert simulated.alerter.opened == ["silent-target:acme"]
    alert = simulated.alerter.alerts["silent-target:acme"]
    assert (alert.severity, DEAD in alert.summary, LIVING in alert.summary) == ("warning", True, False)
    simulated.run(until=UNTIL + 300.0)
    assert (simulated.alerter.resolved, len(simulated.runner.spawned)) == (["silent-target:acme"], 1)


def test_the_dead_targets_of_a_tunnel_that_is_down_are_told_by_its_own_incident() -> None:
    simulated = world(Habits(path_alive=lambda now: not FROM <= now < UNTIL))
    simulated.post(ev.EndpointSeen("acme", reach=Reach.SILENT))
    simulated.run(until=UNTIL)
    assert simulated.alerter.opened == ["acme"]


def test_a_session_that_passes_real_traffic_is_well_and_its_dead_targets_are_told() -> None:
    simulated = world(Habits(path_alive=lambda now: not FROM <= now < UNTIL, proof=lambda now: Proof.TRAFFIC))
    simulated.run(until=UNTIL)
    assert (state(simulated).phase, state(simulated).health) == (Phase.UP, Health.HEALTHY)
    assert (len(simulated.runner.spawned), simulated.alerter.opened) == (1, ["silent-target:acme"])


def test_traffic_of_another_destination_shows_that_the_tunnel_works_and_the_destination_does_not() -> None:
    simulated = world(
        Habits(path_alive=lambda now: not FROM <= now < UNTIL, proof=lambda now: Proof.ANSWERED)
    )
    simulated.run(until=UNTIL)
    assert (state(simulated).health, state(simulated).reason) == (Health.UNHEALTHY, Reason.DESTINATION)
    assert (len(simulated.runner.spawned), simulated.alerter.opened) == (1, ["acme"])


def test_the_end_of_traffic_is_noticed() -> None:
    simulated = world(
        Habits(
            path_alive=lambda now: not FROM <= now < UNTIL,
            proof=lambda now: Proof.TRAFFIC if now < FROM + 200.0 else None,
        )
    )
    simulated.run(until=FROM + 199.0)
    assert len(simulated.runner.spawned) == 1
    simulated.run(until=FROM + 230.0)
    assert state(simulated).health is not Health.HEALTHY
    assert len(simulated.runner.spawned) > 1
