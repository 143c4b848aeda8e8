"""What a step of a tunnel has changed: its records, and whether any output depends on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from supervisor.core.lock_view import LockView
from supervisor.core.session.context import Step, StepContext
from supervisor.core.session.liveness import dead_leg
from supervisor.core.session.machine import DOWN
from supervisor.core.session.probe_targets import dead_targets
from supervisor.core.snapshot import Transition, Uplink
from supervisor.core.state import (
    Failure,
    Health,
    Idle,
    Leg,
    Phase,
    RecoveryStep,
    RetryState,
    SessionEnded,
    SessionState,
    TunnelState,
    Want,
)
from tunnels.base import Reason


@dataclass(frozen=True, slots=True)
class _Standing:
    """What a transition is about: a session, or a tunnel without one."""

    number: int
    phase: Phase
    reason: Reason
    since: float
    health: Health = Health.UNKNOWN
    failure: Failure | None = None
    degraded: str = ""
    renewed: bool = False
    recovery: RecoveryStep | None = None


def transitions(c: StepContext, before: TunnelState, step: Step, uplink: Uplink) -> list[Transition]:
    """The records of a step: the active slot's first, then the standby's, then that of a session that is over
    and has no successor in its slot.
    """
    return [
        _transition(c, was, now, leg, ended)
        for was, now, leg, ended in _pairs(c, before, step, uplink)
        if _moved(was, now)
    ]


_Pair = tuple[_Standing, _Standing, Leg | None, SessionEnded | None]


def _pairs(c: StepContext, before: TunnelState, step: Step, uplink: Uplink) -> Iterator[_Pair]:
    """Each session, or tunnel without one: before the step, after it, what is dead now, and what ended."""
    after, ended = step.tunnel, {each.session.number: each for each in step.ended}
    known = {each.session.number: each for each in before.sessions}
    active, leg = after.active, dead_leg(c.tunnel, after, uplink)
    if active is not None and (same := known.get(active.session.number)) is not None:
        yield _of(same, before), _of(active, after), leg, None
    else:
        over = None if before.active is None else ended.pop(before.active.session.number, None)
        yield _current(before), _current(after), leg, over
    standby = after.standby
    if standby is not None:
        same = known.get(standby.session.number)
        was = _nothing(c.now) if same is None else _of(same, before)
        now = _of(standby, after)
        yield was, now, dead_leg(c.tunnel, _without_tunnel(now, standby), uplink), None
    for over in ended.values():
        stopped = _stopped(over)
        was = _of(known[over.session.number], before)
        yield was, stopped, dead_leg(c.tunnel, _without_tunnel(stopped), uplink), over


def _of(session: SessionState, state: TunnelState) -> _Standing:
    failure = state.failure if session is state.active else session.failure
    return _Standing(
        session.session.number,
        session.phase,
        session.reason,
        session.since,
        session.health,
        failure,
        session.liveness.degraded or "",
        session.session.renewed,
        session.recovery,
    )


def _current(state: TunnelState) -> _Standing:
    if state.active is not None:
        return _of(state.active, state)
    idle = state.idle
    return _Standing(state.last.number, idle.phase, idle.reason, idle.since, failure=state.failure)


def _nothing(now: float) -> _Standing:
    return _Standing(0, Phase.STOPPED, Reason.PLANNED, now)


def _stopped(ended: SessionEnded) -> _Standing:
    return _Standing(ended.session.number, Phase.STOPPED, ended.reason, ended.at, failure=ended.failure)


def _without_tunnel(standing: _Standing, active: SessionState | None = None) -> TunnelState:
    """A session outside the active slot, as if it were all that its tunnel has."""
    return TunnelState(
        want=Want.DOWN if standing.reason in DOWN else Want.UP,
        active=active,
        idle=Idle(Phase.STOPPED, standing.reason, standing.since),
        retry=RetryState(failure=standing.failure),
    )


def _moved(before: _Standing, after: _Standing) -> bool:
    """Whether the step is recorded: phase, health or session changed, or the reason changed while connected,
    or something went wrong that it outlived. (While it is not connected, a changed reason is only a request
    that waits.)
    """
    changed = (before.phase, before.health, before.number) != (after.phase, after.health, after.number)
    return (
        changed or (after.phase is Phase.UP and before.reason is not after.reason) or _outlived(before, after)
    )


def _outlived(before: _Standing, after: _Standing) -> bool:
    """Something went wrong with a connected session, which goes on."""
    same = (before.phase, before.number) == (Phase.UP, after.number) and after.phase is Phase.UP
    return same and after.failure is not None and after.failure is not before.failure


def _transition(
    c: StepContext, before: _Standing, after: _Standing, leg: Leg | None, ended: SessionEnded | None
) -> Transition:
    fresh = after.failure is not None and after.failure is not before.failure
    text = after.failure.text if fresh and after.failure is not None else after.degraded
    if not text and c.lock is not None:
        text = _of_lock(c.lock, after)
    recovers = (after.renewed and not before.renewed) or after.number != before.number
    return Transition(
        c.tunnel.name,
        after.number,
        before.phase,
        after.phase,
        after.health,
        after.failure.reason if after.failure is not None and _outlived(before, after) else after.reason,
        text,
        c.now,
        c.now - before.since,
        after.recovery if recovers else None,
        leg,
        ended,
    )


def _of_lock(lock: LockView, after: _Standing) -> str:
    """The token of the lock with which a session begins, so that logins can be put in order later; and what
    a tunnel waits for.
    """
    if after.phase is Phase.STARTING and lock.token is not None:
        return f"with the lock of account {lock.account}, token {lock.token}"
    return lock.waits_for if (after.phase, after.reason) == (Phase.BACKOFF, Reason.LOCK) else ""


def public(state: TunnelState) -> tuple[object, ...]:
    """What outputs depend on beside transitions."""
    sessions = [
        (
            *(each.session, each.phase, each.health, each.asking, each.code_at, each.outdated),
            *(_drained(each), dead_targets(each.liveness)),
        )
        for each in state.sessions
    ]
    return (
        *sessions,
        state.last,
        state.want,
        state.endpoint,
        _drained(state),
        state.retry.proven,
        state.known,
        state.planned,
        state.sound_since,
        state.chosen_since,
    )


def _drained(one: SessionState | TunnelState) -> tuple[object, ...] | None:
    return None if one.drain is None else (one.drain.reason, one.drain.until, one.drain.left)
