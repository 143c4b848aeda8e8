"""A daemon with a history in virtual time, and a count of its own of what the history should say."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from supervisor.core.events import Asked
from supervisor.core.state import Health, Phase, TunnelState
from supervisor.reports.history.archive import Archive
from supervisor.reports.history.recorder import History, HistorySources
from supervisor.reports.history.writer_thread import WriterIntervals
from tests.fakes import Habits, World
from tests.settings import configured
from tunnels.base import Reason
from tunnels.settings import Probe, Tunnel

ROWS_ONLY = WriterIntervals(
    heartbeat=3600.0, retry=0.02
)  # real seconds: beside virtual time the thread acts on rows only


def tunnel(
    name: str = "acme", *, targets: tuple[str, ...] = ("icmp://10.77.0.1",), **settings: object
) -> Tunnel:
    return configured(
        Tunnel,
        name=name,
        kind="test",
        destinations=("10.77.0.0/24",),
        probe=Probe(targets=targets),
        **settings,
    )


@dataclass
class SimulatedHost:
    """The clocks of a simulated host: a step of the clock changes the offset, a boot both."""

    now: float = 0.0
    offset: float = 1_700_000_000.0
    boot: str = "one"


@dataclass
class ObservedTruth:
    """What was, counted by looking at the state between any two events; knows nothing of transitions,
    marks and files.
    """

    seconds: Counter[str] = field(default_factory=Counter)
    repairs: list[float] = field(default_factory=list)
    _lacking: float = 0.0

    def passed(self, seconds: float, what: str) -> None:
        self.seconds[what] += seconds
        if what == "down":
            self._lacking += seconds
        elif seconds > 0 and self._lacking:
            self.repairs.append(self._lacking)
            self._lacking = 0.0


def what_is(state: TunnelState) -> str:
    if state.phase is Phase.UP and state.health is Health.HEALTHY:
        return "up"
    return "stopped" if state.phase is Phase.STOPPED else "down"


def surroundings(machine: SimulatedHost) -> HistorySources:
    return HistorySources(machine.boot, lambda: machine.now, lambda: machine.offset)


class SimulatedHistory:
    """A simulated daemon whose transitions go to a real history on disk, from `SimulatedHost.now` on."""

    def __init__(
        self,
        directory: Path,
        machine: SimulatedHost,
        habits: Habits,
        truth: ObservedTruth | None = None,
        **tunnels: Tunnel,
    ) -> None:
        self.machine, self.truth = machine, truth or ObservedTruth()
        self.history = History(Archive(directory, "test"), surroundings(machine), ROWS_ONLY)
        self.past = self.history.start(max_failures=5)
        self.world = CountedTunnel(self, tunnels or {"acme": tunnel()}, habits)

    def run(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.world.run(self.world.now + seconds)
        self.world.look()

    def ask(self, reason: Reason, name: str = "acme") -> None:
        """An operator says something."""
        self.world.post(Asked(name, reason=reason))

    def die(self) -> None:
        """Nobody says good-bye to the tunnels; the last sign of life is from this moment."""
        self.history.close(10.0)

    def end(self) -> None:
        """A daemon that ends as it should."""
        for name in self.world.engine.snapshot.tunnels:
            self.ask(Reason.SHUTDOWN, name)
        self.run(1.0)
        self.history.close(10.0)


class CountedTunnel(World):
    """Counts before each event what was true until then, for the first tunnel."""

    def __init__(self, life: SimulatedHistory, tunnels: dict[str, Tunnel], habits: Habits) -> None:
        self._life, self._looked, self._name = life, life.machine.now, next(iter(tunnels))
        super().__init__(tunnels, habits, now=life.machine.now, recorder=life.history)

    def look(self) -> None:
        """Count."""
        self._life.machine.now = self.now
        tunnels = self.engine.snapshot.tunnels
        if self._name in tunnels:
            self._life.truth.passed(self.now - self._looked, what_is(tunnels[self._name][1]))
        self._looked = self.now

    def _drain_inbox(self) -> float | None:
        self.look()
        return super()._drain_inbox()
