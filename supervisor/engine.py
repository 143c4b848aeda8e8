"""The one loop: inbox -> step -> perform -> publish.

Everything that happens comes as an event through the inbox; there is no other way in. Processes are driven by actions (edge-triggered);
routes, probes and incidents are functions of the snapshot (level-triggered: `set` may be late, fail or be repeated, the next one heals it).
The Protocols below are all that the engine knows about the world.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from supervisor.core.alerts import Alert
from supervisor.core.events import Event
from supervisor.core.network import NetworkPlan
from supervisor.core.state import Snapshot, Transition
from tunnels.settings import Probe, Tunnel

Post = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class ProbeJob:
    """What the prober should do for one running session."""

    tunnel: str
    session: int
    probe: Probe
    device: str | None      # bind to this device; None: a proxy carries the lane, where only received bytes prove anything
    mark: int               # the lane


class Runner(Protocol):
    """Runs clients. Returns at once; what comes of it is posted to the inbox (Spawned, SpawnFailed, ClientSaid, Exited, ...)."""

    def spawn(self, tunnel: Tunnel, session: int) -> None:
        """Start the client of this session."""

    def terminate(self, tunnel: str, session: int) -> None:
        """Ask its process tree to end. An `Exited` follows when the client is gone."""

    def kill(self, tunnel: str, session: int) -> None:
        """SIGKILL its process tree."""


class Network(Protocol):
    """Holds the kernel to a plan."""

    def set(self, plan: NetworkPlan) -> None:
        """The latest plan wins; returns at once."""


class Prober(Protocol):
    """Probes running sessions and posts `Probed` after each round."""

    def set(self, jobs: Mapping[str, ProbeJob]) -> None:
        """The jobs by tunnel, exactly these; a job whose session is unchanged goes on undisturbed."""


class Alerter(Protocol):
    """Keeps incidents as the verdicts say."""

    def set(self, alerts: Mapping[str, Alert]) -> None:
        """Verdicts by tunnel; an incident of a tunnel that is not named any more is resolved."""


class Recorder(Protocol):
    """Is told of each transition, once."""

    def record(self, transition: Transition, snapshot: Snapshot) -> None:
        """Must not block."""
