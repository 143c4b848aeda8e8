"""The lease of one account: may this member's client run, and until when. A pure state machine.

    free -> asking -> held <-> unknown
      ^       ^          \\      /
      +-------+---------- ending        (the client ends, then the lock is given back)

All moments are seconds of this host's monotonic clock. The permission of a renewal is counted from the moment
at which it was *sent*: the service gives the lock to nobody else before its own TTL after that. What follows
from a state is level-triggered: `may_start`, `must_end`, `asks`, `gives_back`, `until`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

MARGIN_SECONDS, MARGIN_SHARE = 1.5, 0.3
LOG_OFF_SECONDS, LOG_OFF_SHARE = 0.5, 0.1


def margin(ttl: float) -> float:
    """Seconds between the end of the holder's permission and the end of the lease: for clocks that do not
    run equally fast, and for packets that are under way.
    """
    return min(MARGIN_SECONDS, MARGIN_SHARE * ttl)


def log_off(ttl: float) -> float:
    """Seconds before the end of the permission in which the client logs off."""
    return min(LOG_OFF_SECONDS, LOG_OFF_SHARE * ttl)


def interval(ttl: float) -> float:
    """Seconds between two renewals."""
    return ttl / 3


def call_budget(ttl: float) -> float:
    """Seconds for one call to the lock service: after the last good renewal two more fit in."""
    return (ttl - margin(ttl) - log_off(ttl) - interval(ttl)) / 2


def permitted_until(sent: float, ttl: float) -> float:
    """Until when a renewal gives permission that was sent at this moment, and accepted."""
    return sent + ttl - margin(ttl)


class LeasePhase(enum.StrEnum):
    """Who holds the lock, as far as this member knows."""

    FREE = "free"  # not we, and we do not want it
    ASKING = "asking"  # not we, and we want it
    HELD = "held"  # we
    UNKNOWN = "unknown"  # we, but the lock service is silent
    ENDING = "ending"  # we give it back as soon as the client is gone


OURS = frozenset({LeasePhase.HELD, LeasePhase.UNKNOWN})


@dataclass(frozen=True, slots=True)
class Lease:
    """The state of one account."""

    phase: LeasePhase = LeasePhase.FREE
    log_off: float = LOG_OFF_SECONDS  # before `until`
    wanted: bool = False  # a tunnel wants to log in with the account, or is logged in
    running: bool = False  # its client exists
    until: float = float("-inf")  # monotonic seconds: before this moment the client may send
    token: int | None = None  # of the lock that we hold: orders all holders
    holder: str | None = None  # of the lock that we ask for: what the other one has written there
    why: str = ""  # it ends, or cannot be had

    @property
    def asks(self) -> bool:
        """Try to get the lock."""
        return self.phase is LeasePhase.ASKING and not self.running

    @property
    def gives_back(self) -> bool:
        """Give the lock back; then comes `GivenBack`."""
        return self.phase is LeasePhase.ENDING and not self.running

    def may_start(self, now: float) -> bool:
        """A client may begin to log in."""
        return self.phase is LeasePhase.HELD and now < self.until - self.log_off

    def must_end(self, now: float) -> bool:
        """The client, if there is one, must log off; at `until` it must be gone."""
        return self.phase not in OURS or now >= self.until - self.log_off

    @property
    def due(self) -> float | None:
        """When to come with `Passed`, if nothing else happens before."""
        if self.phase in OURS:
            return self.until - self.log_off
        return None


# --- what happens
# ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wished:
    """What the account's tunnel wants, and whether its client exists."""

    wanted: bool
    running: bool


@dataclass(frozen=True, slots=True)
class Acquired:
    """The lock is ours, with a member's lease that gives permission until then."""

    token: int
    until: float


@dataclass(frozen=True, slots=True)
class LockRefused:
    """Another one holds it, or it can be had by nobody for the moment (None)."""

    holder: str | None


@dataclass(frozen=True, slots=True)
class Renewed:
    """The member's lease was renewed."""

    until: float


@dataclass(frozen=True, slots=True)
class Vouched:
    """The service is silent, but every other member has said that it does not hold the lock."""

    until: float


@dataclass(frozen=True, slots=True)
class Unanswered:
    """The lock service did not answer, and why."""

    why: str


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """The lease is over, or cannot be trusted any more: another member may have the lock."""

    why: str


@dataclass(frozen=True, slots=True)
class GivenBack:
    """The service knows that we do not hold the lock any more."""


@dataclass(frozen=True, slots=True)
class Passed:
    """Time has passed."""


LeaseEvent = Wished | Acquired | LockRefused | Renewed | Vouched | Unanswered | LeaseLost | GivenBack | Passed
EVENTS: tuple[type[LeaseEvent], ...] = (
    Wished,
    Acquired,
    LockRefused,
    Renewed,
    Vouched,
    Unanswered,
    LeaseLost,
    GivenBack,
    Passed,
)
NEVER = float("-inf")


def follow(lease: Lease, event: LeaseEvent, now: float) -> Lease:
    """The state after the event."""
    after = TABLE[lease.phase, type(event)](lease, event, now)
    if after.phase in OURS and now >= after.until - after.log_off:
        after = replace(after, phase=LeasePhase.ENDING, why=after.why or "it was not renewed in time")
    return after


def _same(lease: Lease, event: Any, now: float) -> Lease:
    return lease


def _asked_for(lease: Lease, event: Wished, now: float) -> Lease:
    phase = LeasePhase.ASKING if event.wanted else LeasePhase.FREE
    return replace(lease, phase=phase, wanted=event.wanted, running=event.running)


def _still_asked_for(lease: Lease, event: Wished, now: float) -> Lease:
    """An answer may have been lost: what is not wanted any more is given back in any case."""
    phase = LeasePhase.ASKING if event.wanted else LeasePhase.ENDING
    return replace(lease, phase=phase, wanted=event.wanted, running=event.running)


def _wished_by_holder(lease: Lease, event: Wished, now: float) -> Lease:
    lease = replace(lease, wanted=event.wanted, running=event.running)
    return lease if event.wanted else replace(lease, phase=LeasePhase.ENDING, why="it is no longer needed")


def _noted(lease: Lease, event: Wished, now: float) -> Lease:
    return replace(lease, wanted=event.wanted, running=event.running)


def _acquired(lease: Lease, event: Acquired, now: float) -> Lease:
    until = event.until
    return replace(lease, phase=LeasePhase.HELD, until=until, token=event.token, holder=None, why="")


def _acquired_unwanted(lease: Lease, event: Acquired, now: float) -> Lease:
    """The answer came too late."""
    return replace(lease, phase=LeasePhase.ENDING, token=event.token)


def _refused(lease: Lease, event: LockRefused, now: float) -> Lease:
    return replace(lease, holder=event.holder, why="")


def _taken(lease: Lease, event: LockRefused, now: float) -> Lease:
    return _lost(lease, LeaseLost("another member holds its lock"), now)


def _extended(lease: Lease, event: Renewed | Acquired, now: float) -> Lease:
    return replace(lease, phase=LeasePhase.HELD, until=max(lease.until, event.until), why="")


def _vouched(lease: Lease, event: Vouched, now: float) -> Lease:
    return replace(lease, until=max(lease.until, event.until))


def _last_packets(lease: Lease, event: Renewed | Vouched, now: float) -> Lease:
    """A client that logs off may go on doing so, unless its time is over."""
    return lease if lease.until <= now else replace(lease, until=max(lease.until, event.until))


def _silent(lease: Lease, event: Unanswered, now: float) -> Lease:
    return replace(lease, phase=LeasePhase.UNKNOWN, why=event.why)


def _asked_in_vain(lease: Lease, event: Unanswered, now: float) -> Lease:
    return replace(lease, holder=None, why=event.why)


def _lost(lease: Lease, event: LeaseLost, now: float) -> Lease:
    return replace(lease, phase=LeasePhase.ENDING, until=NEVER, why=event.why)


def _given_back(lease: Lease, event: GivenBack, now: float) -> Lease:
    """A client that exists meanwhile must end first."""
    if lease.running:
        return lease
    phase = LeasePhase.ASKING if lease.wanted else LeasePhase.FREE
    return Lease(phase, lease.log_off, lease.wanted)


Transition = Callable[[Lease, Any, float], Lease]
_FREE: Mapping[type[LeaseEvent], Transition] = {Wished: _asked_for, Acquired: _acquired_unwanted}
_ASKING: Mapping[type[LeaseEvent], Transition] = {
    Wished: _still_asked_for,
    Acquired: _acquired,
    LockRefused: _refused,
    Unanswered: _asked_in_vain,
}
_HELD: Mapping[type[LeaseEvent], Transition] = {
    Wished: _wished_by_holder,
    Acquired: _extended,
    LockRefused: _taken,
    Renewed: _extended,
    Unanswered: _silent,
    LeaseLost: _lost,
}
_ENDING: Mapping[type[LeaseEvent], Transition] = {
    Wished: _noted,
    LockRefused: _taken,
    Renewed: _last_packets,
    Vouched: _last_packets,
    LeaseLost: _lost,
    GivenBack: _given_back,
}
# Every pair of phase and event. What a phase does not name changes nothing.
TABLE: Mapping[tuple[LeasePhase, type[LeaseEvent]], Transition] = MappingProxyType(
    {
        (phase, event): known.get(event, _same)
        for phase, known in (
            (LeasePhase.FREE, _FREE),
            (LeasePhase.ASKING, _ASKING),
            (LeasePhase.HELD, _HELD),
            (LeasePhase.UNKNOWN, {**_HELD, Vouched: _vouched}),
            (LeasePhase.ENDING, _ENDING),
        )
        for event in EVENTS
    }
)
