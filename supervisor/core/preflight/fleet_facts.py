"""Facts about the other members of the fleet, its lock engine, and the cloud's routes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemberAnswer:
    """What became of asking a member's HTTP server."""

    member: str  # as our configuration names it
    url: str | None
    problem: str = ""  # why there is no answer
    name: str = ""  # as it names itself
    version: str = ""
    ahead: float | None = None  # seconds by which its clock is ahead of ours; None: it does not say


@dataclass(frozen=True, slots=True)
class EngineNode:
    """One server of the lock engine."""

    address: str
    problem: str = ""  # why it cannot be used
    version: str = ""
    leader: bool = True  # it knows of a leader


@dataclass(frozen=True, slots=True)
class EngineAnswer:
    """What became of using the lock engine as the daemon does."""

    name: str  # etcd or Consul
    away: str = ""  # why it cannot be used at all
    denied: tuple[tuple[str, str], ...] = ()  # what it refuses us, and its words
    seconds: float = 0.0  # that a lock took
    ttl: float = 5.0
    nodes: tuple[EngineNode, ...] = ()


@dataclass(frozen=True, slots=True)
class FleetFacts:
    """All that was asked."""

    members: tuple[MemberAnswer, ...] = ()
    engine: EngineAnswer | None = None  # None: none is configured
    routes: tuple[str, ...] | None = None  # what is wrong with fleet.announce.aws; None: not configured
