"""All tunnels at one moment, which every output is a function of; and the record of one change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from supervisor.core.lock_view import LockView
from supervisor.core.state import Health, Leg, Phase, RecoveryStep, SessionEnded, TunnelState
from tunnels.base import Reason, Tunnel


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
    at: float  # monotonic seconds
    lasted: float  # seconds that the state before had lasted
    rung: RecoveryStep | None = None  # the recovery that begins with it
    leg: Leg | None = None  # the part of the way that is dead, as far as that is known
    ended: SessionEnded | None = None  # the session that is over with it


@dataclass(frozen=True, slots=True)
class Uplink:
    """Whether this host's own way out works."""

    alive: bool = True
    since: float = float("-inf")  # monotonic seconds
    text: str = ""  # what shows that it is dead
    doubted: bool = False  # it may be dead; a verdict follows within seconds


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All tunnels at one moment: the read model of everything that goes out."""

    tunnels: Mapping[str, tuple[Tunnel, TunnelState]]
    now: float  # monotonic seconds
    draining: bool = False
    uplink: Uplink = Uplink()
    gone: frozenset[str] = frozenset()  # other members of the fleet that do not answer
    locks: Mapping[str, LockView] = field(default_factory=dict)  # of exclusive tunnels, where there is news
    carried: tuple[tuple[str, str], ...] = ()  # tunnel, and the other member that carried it before this one
