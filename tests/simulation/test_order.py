"""The order of one turn: clients start, the kernel gets the plan, the others are told, clients are ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from supervisor.core.events import Asked
from supervisor.core.network.plan import NetworkPlan
from supervisor.core.state import Phase
from supervisor.engine import Stage
from supervisor.outputs import Network, Outputs
from tests.fakes import Habits, World
from tests.settings import configured
from tunnels.base import Reason
from tunnels.settings import Probe, Tunnel

PAIR = {
    name: configured(
        Tunnel,
        name=name,
        kind="test",
        destinations=("10.77.0.0/24",),
        probe=Probe(targets=("icmp://10.77.0.1",)),
        priority=number,
    )
    for number, name in enumerate(("main", "spare"))
}


class Told:
    """Notes what an output is told, and lets the one behind it do it."""

    def __init__(self, behind: Any, note: Callable[[str], None], *verbs: str) -> None:
        self._behind, self._note, self._verbs = behind, note, verbs

    def __getattr__(self, name: str) -> Any:
        done = getattr(self._behind, name)
        if name not in self._verbs:
            return done

        def told(*about: Any) -> Any:
            self._note(name)
            return done(*about)

        return told


def observed(acts: list[str]) -> Callable[[Outputs], Outputs]:
    """Outputs that write down what they are told, in order."""

    def wrapped(outputs: Outputs) -> Outputs:
        (recorder,) = outputs.recorders
        return replace(
            outputs,
            runner=Told(outputs.runner, acts.append, "spawn", "terminate"),
            network=Told(outputs.network, lambda _: acts.append("plan"), "set"),
            recorders=(Told(recorder, acts.append, "record"),),
        )

    return wrapped


def test_traffic_moves_to_another_tunnel_before_a_client_ends() -> None:
    acts: list[str] = []
    simulated = World(PAIR, Habits(), outputs=observed(acts))
    simulated.run(until=60.0)
    acts.clear()
    carried_by = simulated.engine.plan.carries[0].lane
    simulated.post(Asked("main", reason=Reason.STOPPED))
    simulated.run(until=60.01)
    assert acts == ["plan", "record", "terminate"]
    assert simulated.engine.plan.carries[0].lane != carried_by


def test_a_client_starts_before_anything_follows_from_it() -> None:
    acts: list[str] = []
    World(PAIR, Habits(), outputs=observed(acts))
    assert acts[:2] == ["plan", "spawn"], "the first plan closes what is not up yet"
    assert acts.index("spawn") < acts.index("record")


def test_a_turn_has_these_stages_and_one_without_a_change_has_none() -> None:
    simulated = World(PAIR, Habits())
    simulated.run(until=60.0)
    stop = [Asked("main", reason=Reason.STOPPED)]
    assert [*simulated.engine.turn(stop)] == [*Stage]
    assert [*simulated.engine.turn([])] == []


class SlowNetwork:
    """A kernel that takes its time for a plan."""

    def __init__(self, behind: Network) -> None:
        self._behind = behind
        self.takes: Callable[[], None] = lambda: None  # lets that time pass
        self.plans = 0

    conditions: Mapping[str, str] = MappingProxyType({})

    def set(self, plan: NetworkPlan) -> None:
        """Virtual time passes."""
        self.plans += 1
        self.takes()
        self._behind.set(plan)


def test_publications_rest_in_a_storm_and_clients_do_not_wait_for_them() -> None:
    """A plan takes 50 ms, and a client dies every 10 ms for 3 s: publications take a third of that time."""
    networks: list[SlowNetwork] = []

    def slow(outputs: Outputs) -> Outputs:
        networks.append(SlowNetwork(outputs.network))
        return replace(outputs, network=networks[0])

    names = [f"t{number}" for number in range(100)]
    crowd = {
        name: configured(Tunnel, name=name, kind="test", destinations=(f"10.{number}.0.0/24",))
        for number, name in enumerate(names)
    }
    simulated = World(crowd, Habits(), outputs=slow)
    simulated.run(until=60.0)
    (network,), spawned = networks, simulated.runner.spawned

    def passes() -> None:
        simulated.now += 0.05

    network.takes, network.plans, began = passes, 0, len(spawned)
    for number in range(300):
        simulated.run(until=max(simulated.now, 60.0 + number / 100))
        simulated.post(Asked(names[number % 100], reason=Reason.RESTARTED))
    simulated.run(until=63.0)
    assert network.plans <= 22, "20 in three seconds of which each is followed by twice its time"
    simulated.run(until=70.0)
    assert len(spawned) - began >= 100
    assert all(state.phase is Phase.UP for _, state in simulated.engine.snapshot.tunnels.values())
    assert not simulated.engine.unpublished
