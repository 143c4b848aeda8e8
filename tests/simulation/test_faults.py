"""One output, or the step of one tunnel, has a fault of its own: everything else goes on, and nothing
spins. In virtual time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from supervisor.core.conditions import Condition
from supervisor.core.events import Asked
from supervisor.core.faults import VISIBLE_SECONDS
from supervisor.core.session.fault_retry import STEP_RETRY_SECONDS
from supervisor.core.state import Phase
from supervisor.delivery import REPUBLISH_SECONDS
from supervisor.outputs import Outputs
from tests.fakes import Habits, World
from tests.settings import configured
from tunnels.base import Reason
from tunnels.settings import Probe, Reconnect, Tunnel


def tunnel(name: str, number: int) -> Tunnel:
    return configured(
        Tunnel,
        name=name,
        kind="test",
        destinations=(f"10.{number}.0.0/24",),
        probe=Probe(targets=(f"icmp://10.{number}.0.1",)),
    )


TUNNELS = {"good": tunnel("good", 1), "other": tunnel("other", 2)}


@dataclass
class Breakable:
    """Any output: it raises while it is broken, and else does what the one behind it does."""

    behind: Any = None
    broken: bool = True
    calls: int = 0
    conditions: Mapping[str, Condition] = field(default_factory=dict)

    def set(self, what: Any) -> None:
        self._act("set", what)

    def record(self, transition: Any, snapshot: Any) -> None:
        self._act("record", transition, snapshot)

    def keep(self, records: Any) -> None:
        self._act("keep", records)

    def _act(self, verb: str, *about: Any) -> None:
        self.calls += 1
        if self.broken:
            raise RuntimeError("a fault")
        if self.behind is not None:
            getattr(self.behind, verb)(*about)


Place = Callable[[Outputs, Breakable], Outputs]
PLACES: dict[str, Place] = {
    "network": lambda all, part: replace(all, network=_behind(part, all.network)),
    "prober": lambda all, part: replace(all, prober=_behind(part, all.prober)),
    "flows": lambda all, part: replace(all, flows=_behind(part, all.flows)),
    "alerter:Breakable": lambda all, part: replace(all, alerters=(part, *all.alerters)),
    "recorder:Breakable": lambda all, part: replace(all, recorders=(part, *all.recorders)),
    "keeper:Breakable": lambda all, part: replace(all, keepers=(part, *all.keepers)),
}


def _behind(part: Breakable, real: Any) -> Breakable:
    part.behind = real
    return part


@pytest.mark.parametrize("name", PLACES)
def test_an_output_that_raises_is_told_counted_and_shown_and_the_others_go_on(name: str) -> None:
    part = Breakable()
    world = World(TUNNELS, Habits(), outputs=lambda all: PLACES[name](all, part))
    world.run(60.0)
    assert {world.phase(each) for each in TUNNELS} == {Phase.UP}
    assert part.calls > 0
    assert world.told == [(name, "RuntimeError('a fault')")]
    assert world.faults.counts == {name: part.calls}
    assert f"internal-error:{name}" in world.engine.conditions
    assert f"internal-error:{name}" in world.alerter.open
    assert len(world.recorder.transitions) >= 4
    assert set(world.keeper.records) == set(TUNNELS)

    part.broken = False
    world.post(Asked("good", reason=Reason.RESTARTED))  # something to record
    world.run(60.0 + 2 * VISIBLE_SECONDS)
    assert f"internal-error:{name}" not in world.engine.conditions, "it works again"
    assert f"internal-error:{name}" not in world.alerter.open


def test_what_failed_is_told_again_soon() -> None:
    part = Breakable()
    world = World(TUNNELS, Habits(), outputs=lambda all: PLACES["network"](all, part))
    world.run(10.0)
    assert world.network.plans == []
    assert part.calls < 40, "it is not told all the time"
    part.broken = False
    world.run(10.0 + REPUBLISH_SECONDS + 0.1)
    assert world.network.plans[-1] == world.engine.plan


def test_a_watcher_that_raises_hides_no_other_condition() -> None:
    class FaultyWatcher:
        @property
        def conditions(self) -> Mapping[str, Condition]:
            raise RuntimeError("a fault")

    class Seer:
        conditions = {"seen": Condition("something is wrong")}  # noqa: RUF012 - a value, never changed

    world = World(TUNNELS, Habits(), outputs=lambda all: replace(all, watchers=(FaultyWatcher(), Seer())))
    world.run(10.0)
    assert {"seen", "internal-error:watcher:FaultyWatcher"} <= set(world.engine.conditions)


def test_a_runner_that_raises_fails_one_start() -> None:
    class FaultyRunner:
        def __init__(self, real: Any) -> None:
            self._real = real

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def spawn(self, tunnel: Tunnel, *about: Any) -> None:
            if tunnel.name == "other":
                raise RuntimeError("a fault")
            self._real.spawn(tunnel, *about)

    world = World(TUNNELS, Habits(), outputs=lambda all: replace(all, runner=FaultyRunner(all.runner)))
    world.run(30.0)
    state = world.engine.snapshot.tunnels["other"][1]
    assert world.phase("good") is Phase.UP
    assert (state.phase, state.reason) == (Phase.BACKOFF, Reason.LOCAL)
    assert len(world.told) == 1


class FaultySettings:
    """Those of a tunnel's reconnects; whoever reads them meets a fault while `broken`."""

    def __init__(self) -> None:
        self.broken, self.reads = True, 0

    def __getattr__(self, name: str) -> Any:
        self.reads += 1
        if self.broken:
            raise RuntimeError("a fault")
        return getattr(Reconnect(), name)


@pytest.mark.parametrize("crashes", [False, True], ids=["one daemon", "adopted"])
def test_a_tunnel_whose_steps_raise_stays_as_it_was_and_the_others_go_on(crashes: bool) -> None:
    settings = FaultySettings()
    bad = replace(tunnel("bad", 3), **{"reconnect": settings})
    lives = iter([20.0] * 8)
    world = World({**TUNNELS, "bad": bad}, Habits(lives=lambda: next(lives, float("inf"))))
    world.run(40.0)
    assert world.phase("bad") is Phase.STARTING, "it did not understand that its client is up"
    world.run(100.0)
    assert world.phase("bad") is Phase.STOPPING, "nor that it is gone"
    if crashes:
        world.crash()
    world.run(200.0)
    assert [part for part, _ in world.told] == ["tunnel:bad"] * len(world.told)
    assert len(world.told) <= 4
    assert 3 < world.faults.counts["tunnel:bad"] <= 3 * 200 / STEP_RETRY_SECONDS, (
        "it is tried again, and nothing spins"
    )
    assert "internal-error:tunnel:bad" in world.engine.conditions
    assert {world.phase(name) for name in TUNNELS} == {Phase.UP}
    assert len([each for each in world.runner.spawned if each[1] == "good"]) > 3, "it reconnects as always"

    settings.broken = False
    world.run(300.0)
    assert world.phase("bad") is Phase.UP
    world.run(310.0 + VISIBLE_SECONDS)
    assert "internal-error:tunnel:bad" not in world.engine.conditions
