"""What is: the state of one tunnel, and the snapshot of all of them that every output is a function of."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from tunnels.base import IPNetwork, Reason, Tunnel


class Want(enum.StrEnum):
    """What was asked for."""

    UP = "up"
    DOWN = "down"


class Phase(enum.StrEnum):
    """What is."""

    STOPPED = "stopped"     # asked to be down
    STARTING = "starting"   # the client runs and has not come up
    UP = "up"               # the client says that it is connected
    BACKOFF = "backoff"     # waits before the next attempt
    STOPPING = "stopping"   # the client was told to end
    FAILED = "failed"       # waits for a human, or for a changed secret or configuration


class Health(enum.StrEnum):
    """Does traffic pass."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a session ended, or could not begin."""

    reason: Reason
    text: str
    at: float           # monotonic seconds


@dataclass(frozen=True, slots=True)
class Session:
    """One run of a tunnel's client. `number` only grows and fences off events of earlier runs."""

    number: int
    id: str = ""                            # unique over restarts of the daemon
    pid: int | None = None
    device: str | None = None
    port: int | None = None
    started: float = 0.0                    # monotonic seconds
    connected: float | None = None          # monotonic seconds
    address: str | None = None              # ours inside the tunnel
    peer: str | None = None
    pushed: tuple[IPNetwork, ...] = ()
    path_mtu: int | None = None             # bytes of the largest packet that passes; the last session's, until this one's is found


@dataclass(frozen=True, slots=True)
class TunnelState:
    """Everything that is remembered about one tunnel between two events. All moments are monotonic seconds."""

    want: Want = Want.UP
    phase: Phase = Phase.STOPPED
    health: Health = Health.UNKNOWN
    reason: Reason = Reason.CONFIGURED      # of the last transition
    since: float = 0.0                      # when the last transition was
    well_since: float = 0.0                 # when the answer to `well` last changed
    session: Session = Session(0)           # the current one, or the last
    deadline: float | None = None           # when the next Tick is due
    misses: int = 0                         # probe rounds without an answer, in a row
    healthy_since: float | None = None      # in this session
    attempts: int = 1                       # sessions since the last stable one, plus one; 0 right after a stable one
    refusals: int = 0                       # logins that were refused, in a row
    failure: Failure | None = None          # the last one
    last_rtt: float | None = None           # seconds, of the last answered probe
    reconnects: int = 0                     # sessions begun because an earlier one had ended, nobody having asked

    @property
    def running(self) -> bool:
        """A client process may exist."""
        return self.phase in (Phase.STARTING, Phase.UP, Phase.STOPPING)


def up(state: TunnelState) -> bool:
    """Connected and not known to be sick: what `facilitator_tunnel_up` says."""
    return state.phase is Phase.UP and state.health is not Health.UNHEALTHY


def well(tunnel: Tunnel, state: TunnelState) -> bool:
    """Proven to work: up, and where there is something to probe, answered.

    A client that connects again and again while nothing passes is up for some seconds each time, and never well.
    """
    return up(state) and (state.health is Health.HEALTHY or not tunnel.probe.targets)


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of phase or health: the single record for log, counter, history and status."""

    tunnel: str
    session: int
    before: Phase
    after: Phase
    health: Health
    reason: Reason
    text: str
    at: float           # monotonic seconds
    lasted: float       # seconds that the state before had lasted


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All tunnels at one moment: the read model of everything that goes out."""

    tunnels: Mapping[str, tuple[Tunnel, TunnelState]]
    now: float                  # monotonic seconds
    draining: bool = False
