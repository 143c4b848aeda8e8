"""What the engine drives: the Protocols by which it knows the world. `supervisor.engine` calls them,
`supervisor.app` supplies them.

A runner takes orders (edge-triggered); the others hold what was last set (level-triggered).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from supervisor.core.alerting.verdict import Alert
from supervisor.core.conditions import Condition
from supervisor.core.fleet.wishes import LockWish
from supervisor.core.network.compose import Scope
from supervisor.core.network.flow_counting import FlowJob
from supervisor.core.network.plan import NetworkPlan
from supervisor.core.session.jobs import ProbeJob
from supervisor.core.session.record import TunnelRecord
from supervisor.core.snapshot import Snapshot, Transition
from tunnels.settings import Tunnel


class ClientRunner(Protocol):
    """Runs clients. Every method returns at once; the outcome is posted to the inbox (Spawned, SpawnFailed,
    ClientSaid, Exited, ...).
    """

    def spawn(
        self, tunnel: Tunnel, session: int, resume: bool = False, remote: int = 0, slot: int = 0
    ) -> None:
        """Start the client of this session on one of the tunnel's slots, which must be free.

        `resume`: continue the slot's last session instead of logging in. `remote`: which of the configured
        servers is tried first.
        """

    def renew(self, tunnel: str, session: int) -> None:
        """Tell it to reconnect in place."""

    def ask_sign_of_life(self, tunnel: str, session: int) -> None:
        """Make it say `SignOfLife`, if its kind can."""

    def terminate(self, tunnel: str, session: int, leave: bool = False) -> None:
        """Ask its process tree to end, and to log off if it should `leave` for good. An `Exited` follows
        when the client is gone.
        """

    def kill(self, tunnel: str, session: int) -> None:
        """SIGKILL its process tree."""

    @property
    def busy(self) -> bool:
        """Clients that were ordered have not been started yet; they are in the next turns of the loop."""


class Network(Protocol):
    """Holds the kernel to a plan."""

    def set(self, plan: NetworkPlan) -> None:
        """The latest plan wins; returns at once."""

    @property
    def conditions(self) -> Mapping[str, str]:
        """What is wrong beyond a single tunnel, by name, in a sentence each; `Noticed` is posted when that
        changes.
        """


class Watcher(Protocol):
    """Knows of conditions that are not part of any tunnel's state."""

    @property
    def conditions(self) -> Mapping[str, Condition]:
        """What is wrong, by name; `Noticed` is posted when that changes."""


class Prober(Protocol):
    """Probes running sessions and posts `Probed` after each round."""

    def set(self, jobs: Mapping[str, ProbeJob]) -> None:
        """The jobs by tunnel, exactly these; a job whose session is unchanged goes on undisturbed."""


class FlowCounter(Protocol):
    """Counts the flows of lanes and posts `FlowsCounted`: at once, as soon as one is over, and every few
    seconds.
    """

    def set(self, jobs: Mapping[int, FlowJob]) -> None:
        """The jobs by lane, exactly these."""


class Names(Protocol):
    """Answers staff with names behind the tunnels."""

    def set(self, scope: Scope, snapshot: Snapshot, lanes: Mapping[str, int]) -> None:
        """What it goes by from now on; returns at once. `lanes`: of the tunnels' first slots."""


class Locks(Protocol):
    """Holds the locks of exclusive tunnels and posts `LockChanged`."""

    def set(self, wishes: Mapping[str, LockWish]) -> None:
        """What the exclusive tunnels want, exactly these; returns at once."""


class Alerter(Protocol):
    """Keeps incidents as the verdicts say."""

    def set(self, alerts: Mapping[str, Alert]) -> None:
        """Verdicts by tunnel; an incident of a tunnel that is not named any more is resolved."""


class Recorder(Protocol):
    """Gets each transition, once."""

    def record(self, transition: Transition, snapshot: Snapshot) -> None:
        """Must not block."""


class Keeper(Protocol):
    """Keeps what a later daemon goes on from."""

    def keep(self, records: Mapping[str, TunnelRecord | None]) -> None:
        """What has changed, by tunnel; None: the tunnel is gone. Must be done when it returns, and take no
        time.
        """


@dataclass(frozen=True, slots=True)
class Outputs:
    """Everything the engine drives. One that raises keeps nothing from the others; the engine notes it as
    a fault of the daemon.
    """

    runner: ClientRunner
    network: Network
    prober: Prober
    flows: FlowCounter
    alerters: tuple[Alerter, ...]
    recorders: tuple[Recorder, ...]
    watchers: tuple[Watcher, ...] = ()
    keepers: tuple[Keeper, ...] = ()
    locks: Locks | None = None  # None: no lock engine is configured, and no tunnel is exclusive
    names: Names | None = None
