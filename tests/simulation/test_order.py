"""The order of one turn: clients start, the kernel gets the plan, the others are told, clients are ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from supervisor.core.events import Asked
from supervisor.engine import Stage
from supervisor.outputs import Outputs
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
