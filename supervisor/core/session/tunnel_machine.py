"""The state machine of a tunnel: what to do while no session is active, what events mean for the tunnel as
such, and what the end of its active session means.

    step = tunnel_step(context, state, event)

A pair of phase and event that is neither in `IDLE`, `RUNNING` nor in the session's table changes nothing.
Only `begin` starts a client in the active slot, and only when none is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from supervisor.core import events as ev
from supervisor.core.session.context import Step, StepContext
from supervisor.core.session.draining import drained, flows_left, with_notice
from supervisor.core.session.escalation import escalate
from supervisor.core.session.liveness import LOCAL
from supervisor.core.session.lock_loss import lock_lost
from supervisor.core.session.machine import DOWN, Outcome, SessionStep, reconnecting, session_step, terminated
from supervisor.core.session.retry import (
    COUNTED,
    CURABLE_SECONDS,
    POLICIES,
    Retry,
    accepted,
    from_nothing,
    login_left,
    pause,
    stable,
    unreached,
    unreached_pause,
)
from supervisor.core.state import (
    Failure,
    Idle,
    Liveness,
    Phase,
    Reach,
    RetryState,
    Session,
    SessionEnded,
    SessionState,
    TunnelState,
    Want,
    sound,
)
from tunnels.base import Reason

QUIET_SECONDS = 900.0  # that a reconnect for changed inputs waits for a quiet moment
# between two looks at a dead uplink, or at a lock that is not ours; an event tells when that changes
RECHECK_SECONDS = {Reason.UPLINK: 30.0, Reason.LOCK: 60.0}
SPREAD_SECONDS = 1.0  # over which the starts after the return of an uplink or a gateway are spread


def tunnel_step(c: StepContext, state: TunnelState, event: ev.Event) -> Step:
    """The tunnel after an event that is not about its standby."""
    active = state.active
    if active is None:
        handler = IDLE.get((state.phase, type(event)))
        return Step(state) if handler is None else handler(c, state, event)
    if (about := RUNNING.get(type(event))) is not None:
        return about(c, state, active, event)
    return _followed(c, state, session_step(c, active, event))


def _followed(c: StepContext, state: TunnelState, stepped: SessionStep) -> Step:
    """The tunnel after a step of its active session."""
    session, state = stepped.session, replace(state, active=stepped.session)
    match stepped.outcome:
        case Outcome.CONNECTED:
            state = replace(state, retry=accepted(state.retry))
        case Outcome.STABLE:
            state = replace(state, retry=replace(state.retry, attempts=0, suspicions=0))
        case Outcome.RECONNECTS:
            state = replace(state, retry=from_nothing(state.retry))
        case Outcome.ENDED:
            return _ended(c, state, session)
    return Step(state, stepped.actions)


# --- asked for
# ----------------------------------------------------------------------------------------------------------


def _ask_idle(c: StepContext, state: TunnelState, event: ev.Asked) -> Step:
    """Nothing runs: it is done at once, except that flows may wait for the tunnel to come back."""
    if event.reason in DOWN:
        waits = event.until is not None and state.phase is Phase.BACKOFF
        return (
            drained(c, state, event) if waits else _stopped(c, replace(state, want=Want.DOWN), event.reason)
        )
    state = replace(state, want=Want.UP, drain=None, retry=from_nothing(state.retry))
    return begin(c, state, event.reason)


def _ask_running(c: StepContext, state: TunnelState, active: SessionState, event: ev.Asked) -> Step:
    """A client runs: a start is fulfilled already, anything else ends the client first."""
    if active.phase is Phase.STOPPING:
        return _ask_stopping(c, state, active, event)
    if event.reason in DOWN:
        if (event := with_notice(c, state, active, event)).until is None:
            return _unwanted(c, state, active, event.reason)
        return drained(c, state, event)
    state = replace(state, want=Want.UP, drain=None)
    if event.reason in (Reason.RESTARTED, Reason.RECONFIGURED):
        state = replace(state, retry=from_nothing(state.retry))
        return _followed(c, state, terminated(c, replace(active, resumable=False), event.reason))
    return Step(state)


def _ask_stopping(c: StepContext, state: TunnelState, active: SessionState, event: ev.Asked) -> Step:
    """The client ends anyway; only what follows may change."""
    if event.until is not None:
        return Step(state) if state.want is Want.DOWN else drained(c, state, event)
    want = Want.DOWN if event.reason in DOWN else Want.UP
    return Step(replace(state, want=want, drain=None, active=replace(active, reason=event.reason)))


def _unwanted(c: StepContext, state: TunnelState, active: SessionState, reason: Reason) -> Step:
    state = replace(state, want=Want.DOWN, drain=None)
    return _followed(c, state, terminated(c, replace(active, resumable=False), reason))


def _flows_counted(c: StepContext, state: TunnelState, active: SessionState, event: ev.FlowsCounted) -> Step:
    """Without flows a tunnel that drains is simply unwanted."""
    if state.drain is None or event.left or c.now < state.drain.not_before:
        return flows_left(state, event)
    return _ask_running(c, state, active, ev.Asked(c.tunnel.name, reason=state.drain.reason))


def _flows_counted_idle(c: StepContext, state: TunnelState, event: ev.FlowsCounted) -> Step:
    if state.drain is None or event.left:
        return flows_left(state, event)
    return _ask_idle(c, state, ev.Asked(c.tunnel.name, reason=state.drain.reason))


def _inputs_changed_idle(c: StepContext, state: TunnelState, event: ev.InputsChanged) -> Step:
    """What the tunnel waited for may have come. The inputs of one that has worked are not to blame: its
    pause is not cut short.
    """
    policy, retry = POLICIES[state.reason].retry, state.retry
    blamed = policy in (Retry.LOGIN, Retry.SUSPECT, Retry.SLOW, Retry.CURABLE)
    transient = not blamed and retry.refusals == 0
    if state.phase is Phase.BACKOFF and transient and retry.proven:
        return Step(replace(state, retry=replace(retry, proven=False, resumable=False)))
    retry = from_nothing(replace(retry, proven=False))
    return begin(c, replace(state, retry=retry), Reason.INPUTS_CHANGED)


def _inputs_changed(
    c: StepContext, state: TunnelState, active: SessionState, event: ev.InputsChanged
) -> Step:
    """The running client goes on with the old ones; if these make it fail, the new ones are tried at once.
    Its session is not ended for inputs that cannot be used.
    """
    active = replace(active, resumable=False, outdated=True)
    wanted = event.usable and c.tunnel.login.reconnect_on_change
    if active.phase is Phase.UP and wanted and state.drain is None:
        active = reconnect_at(active, c.now + QUIET_SECONDS)
    return Step(replace(state, active=active, retry=replace(state.retry, proven=False)))


def reconnect_at(session: SessionState, by: float) -> SessionState:
    """The session that reconnects at a quiet moment, at the latest at this one (monotonic seconds)."""
    deadline = by if session.deadline is None else min(by, session.deadline)
    return replace(session, reconnect_by=by, deadline=deadline)


def _quiet(c: StepContext, state: TunnelState, active: SessionState, event: ev.Quiet) -> Step:
    """The moment that a reconnect has waited for."""
    if active.phase is not Phase.UP or active.reconnect_by is None:
        return Step(state)
    return _followed(c, state, reconnecting(c, active))


def _endpoint_seen(c: StepContext, state: TunnelState, event: ev.EndpointSeen) -> Step:
    returned = event.reach is Reach.ANSWERS and state.endpoint is Reach.SILENT
    return Step(replace(state, endpoint=event.reach, endpoint_since=c.now, endpoint_returned=returned))


def _endpoint_seen_waiting(c: StepContext, state: TunnelState, event: ev.EndpointSeen) -> Step:
    """A gateway that answers again ends the pause; it may have been repaired, too, so that what waits for
    somebody to cure it is tried.
    """
    seen = _endpoint_seen(c, state, event).tunnel
    if event.reach is not Reach.ANSWERS or state.endpoint is not Reach.SILENT:
        return Step(seen)
    curable = POLICIES[state.reason].retry is Retry.CURABLE and state.reason not in LOCAL
    if curable and c.now - state.since >= CURABLE_SECONDS[0]:
        return begin(c, seen, Reason.RETRY)
    return Step(_soon(c, seen) if state.retry.unreached > 0 else seen)


def _flows_entered(c: StepContext, state: TunnelState, active: SessionState, event: ev.FlowsEntered) -> Step:
    """The routers send new flows here."""
    takes = state.drain is None and state.chosen_since is None and sound(c.tunnel, active)
    return Step(replace(state, chosen_since=c.now) if takes else state)


def _carried_elsewhere(
    c: StepContext, state: TunnelState, active: SessionState, event: ev.CarriedElsewhere
) -> Step:
    """This host was cut off for a moment and has not noticed: routers have chosen another one since."""
    return Step(state if state.chosen_since is None else replace(state, chosen_since=None, sound_since=c.now))


def _endpoint_seen_running(
    c: StepContext, state: TunnelState, active: SessionState, event: ev.EndpointSeen
) -> Step:
    return _endpoint_seen(c, state, event)


# --- deadlines, and the return of the uplink
# ----------------------------------------------------------------------------------------------------------


def _backoff_deadline(c: StepContext, state: TunnelState, event: ev.Tick) -> Step:
    """The pause is over. What only waited for its turn begins for the reason that it had."""
    if POLICIES[state.reason].retry is Retry.NOW:
        return begin(c, state, state.reason)
    if c.retry_turn > c.now:
        return Step(replace(state, idle=replace(state.idle, deadline=c.retry_turn)))
    return begin(c, state, Reason.RETRY)


def _uplink_back_idle(c: StepContext, state: TunnelState, event: ev.UplinkBack) -> Step:
    """What waited begins within a second, not all at once."""
    return Step(_soon(c, state))


def _lock_changed_idle(c: StepContext, state: TunnelState, event: ev.LockChanged) -> Step:
    return begin(c, state, Reason.LOCK) if event.lock.held and state.reason is Reason.LOCK else Step(state)


def _lock_changed(c: StepContext, state: TunnelState, active: SessionState, event: ev.LockChanged) -> Step:
    return Step(state) if event.lock.held else _followed(c, state, lock_lost(c, active, event))


def _soon(c: StepContext, state: TunnelState) -> TunnelState:
    soon = c.now + c.jitter * SPREAD_SECONDS
    if POLICIES[state.reason].retry is not Retry.BACKOFF or (
        state.deadline is not None and state.deadline < soon
    ):
        return state
    return replace(state, idle=replace(state.idle, deadline=soon))


def _clock_set(c: StepContext, state: TunnelState, event: ev.ClockSet) -> Step:
    """A wrong clock may have been the cause. An account whose attempts are used up is tried once more: after
    another refusal, the next time that the clock is set changes nothing.
    """
    policy, retry = POLICIES[state.reason], state.retry
    code = c.tunnel.login.totp is not None and retry.refusals <= c.tunnel.login.max_attempts
    if not policy.clock or (policy.retry is Retry.LOGIN and not code):
        return Step(state)
    return begin(c, replace(state, retry=replace(retry, login_after=0.0)), Reason.CLOCK_SET)


# --- where it leads
# ----------------------------------------------------------------------------------------------------------


def begin(c: StepContext, state: TunnelState, reason: Reason) -> Step:
    """A session begins in the active slot, or waits for its turn to."""
    retry = state.retry
    if reason is not Reason.CLOCK_SET and not login_left(c.tunnel, retry):
        spent = replace(retry, turn=None, failure=_spent(c, retry))
        return _given_up(c, replace(state, retry=spent), Reason.AUTH)
    if (hindrance := c.hindrance) is not None:
        since = state.since if (state.phase, state.reason) == (Phase.BACKOFF, hindrance) else c.now
        return Step(_waiting(state, hindrance, since, c.now + RECHECK_SECONDS[hindrance]))
    if (moment := max(c.turn, retry.login_after)) > c.now:
        state = replace(state, retry=replace(retry, turn=c.turn))
        return Step(_waiting(state, reason, c.now, moment))
    session, spawn = new_session(c, state, reason, state.last)
    again = POLICIES[reason].retry is not Retry.NOW
    return Step(
        replace(
            state,
            active=session,
            idle=Idle(),
            next_number=session.session.number + 1,
            retry=replace(retry, turn=None),
            reconnects=state.reconnects + again,
        ),
        (spawn,),
    )


def _waiting(state: TunnelState, reason: Reason, since: float, until: float) -> TunnelState:
    return replace(state, idle=Idle(Phase.BACKOFF, reason, since, until))


def new_session(
    c: StepContext, state: TunnelState, reason: Reason, last: Session
) -> tuple[SessionState, ev.Spawn]:
    """The next session, in the slot of `last`, and the order to start its client."""
    retry, number = state.retry, state.next_number
    facts = Session(
        number,
        started=c.now,
        path_mtu=last.path_mtu,  # most likely it is the same path again
        resumed=retry.resumable,
        slot=last.slot,
    )
    session = SessionState(
        facts,
        reason=reason,
        since=c.now,
        deadline=c.now + c.kind.start_timeout,
        resumable=retry.resumable,
        recovery=retry.recovery,
        liveness=Liveness(gave_up_on_hearsay=retry.gave_up_on_hearsay),
    )
    return session, ev.Spawn(c.tunnel.name, number, retry.resumable, retry.remote, last.slot)


def _spent(c: StepContext, retry: RetryState) -> Failure:
    """Why a tunnel does not even try: its own refusal, or those that other tunnels with its account have
    met.
    """
    if retry.failure is not None and retry.failure.reason is Reason.AUTH:
        return retry.failure
    text = (
        f"not tried: the remote gateway has refused the account {c.tunnel.login.username} {retry.refusals} "
        f"times, for tunnels that share it"
    )
    return Failure(Reason.AUTH, text, c.now)


def _stopped(c: StepContext, state: TunnelState, reason: Reason) -> Step:
    retry = replace(state.retry, resumable=False)
    return Step(replace(state, drain=None, retry=retry, idle=Idle(Phase.STOPPED, reason, c.now)))


def _given_up(c: StepContext, state: TunnelState, reason: Reason) -> Step:
    """Only an operator can help; nobody is needed for a tunnel that is to end."""
    if state.drain is not None:
        return _stopped(c, replace(state, want=Want.DOWN), state.drain.reason)
    return Step(replace(state, idle=Idle(Phase.FAILED, reason, c.now)))


def ended(c: StepContext, session: SessionState) -> SessionEnded:
    """The record of this session's end."""
    failure = session.failure
    explains = failure is not None and failure.reason is session.reason
    return SessionEnded(c.tunnel.name, session.session, session.reason, failure if explains else None, c.now)


def _ended(c: StepContext, state: TunnelState, session: SessionState) -> Step:
    """The active session is over. Another one follows it, unless its standby goes on or it is unwanted."""
    over = (ended(c, session),)
    retry = replace(
        state.retry,
        resumable=session.resumable,
        gave_up_on_hearsay=session.liveness.gave_up_on_hearsay,
        failure=session.failure or state.retry.failure,
    )
    spare = state.spare
    state = replace(state, active=None, last=session.session, retry=retry)
    if spare or state.want is Want.DOWN:
        return replace(_stopped(c, state, session.reason), ended=over)
    retry = _counted(c, state, session)
    wait = pause(c.tunnel, retry, session, c.now, c.jitter)
    if retry.unreached > 1 or (
        wait and retry.unreached
    ):  # the first one after a stable session comes at once
        wait = unreached_pause(c.tunnel.reconnect, retry.unreached, state.endpoint, c.jitter)
    if session.outdated and POLICIES[session.reason].retry is not Retry.BACKOFF:
        state = replace(state, retry=from_nothing(retry))
        return replace(begin(c, state, Reason.INPUTS_CHANGED), ended=over)
    retry = replace(escalate(retry, session), attempts=retry.attempts + (not retry.unreached))
    if session.reason is Reason.AUTH:
        retry = replace(retry, login_after=c.now + (wait or 0.0))
    state = replace(state, retry=retry)
    curable = POLICIES[session.reason].retry is Retry.CURABLE
    if wait is None or (curable and state.drain is not None):
        step = _given_up(c, state, session.reason)
    elif wait <= 0.0:
        step = begin(c, state, session.reason)
    else:
        step = Step(_waiting(state, session.reason, c.now, c.now + wait))
    return replace(step, ended=over)


def _counted(c: StepContext, state: TunnelState, session: SessionState) -> RetryState:
    reason, retry = session.reason, state.retry
    lasted, counts = stable(c.tunnel, session, c.now), POLICIES[reason].retry in COUNTED
    return replace(
        retry,
        unreached=retry.unreached + 1 if unreached(session, state.endpoint) else 0,
        attempts=0 if lasted else retry.attempts,
        refusals=retry.refusals + (reason is Reason.AUTH),
        suspicions=counts + (retry.suspicions if counts and not lasted else 0),
    )


IdleHandler = Callable[[StepContext, TunnelState, Any], Step]
RunningHandler = Callable[[StepContext, TunnelState, SessionState, Any], Step]

IDLE: Mapping[tuple[Phase, type[ev.Event]], IdleHandler] = MappingProxyType(
    {
        (Phase.STOPPED, ev.Asked): _ask_idle,
        (Phase.STOPPED, ev.EndpointSeen): _endpoint_seen,
        (Phase.BACKOFF, ev.Asked): _ask_idle,
        (Phase.BACKOFF, ev.InputsChanged): _inputs_changed_idle,
        (Phase.BACKOFF, ev.UplinkBack): _uplink_back_idle,
        (Phase.BACKOFF, ev.LockChanged): _lock_changed_idle,
        (Phase.BACKOFF, ev.ClockSet): _clock_set,
        (Phase.BACKOFF, ev.FlowsCounted): _flows_counted_idle,
        (Phase.BACKOFF, ev.EndpointSeen): _endpoint_seen_waiting,
        (Phase.BACKOFF, ev.Tick): _backoff_deadline,
        (Phase.FAILED, ev.Asked): _ask_idle,
        (Phase.FAILED, ev.InputsChanged): _inputs_changed_idle,
        (Phase.FAILED, ev.ClockSet): _clock_set,
        (Phase.FAILED, ev.EndpointSeen): _endpoint_seen,
    }
)

# Events about the tunnel as such while a session is active, in any phase of it.
RUNNING: Mapping[type[ev.Event], RunningHandler] = MappingProxyType(
    {
        ev.Asked: _ask_running,
        ev.InputsChanged: _inputs_changed,
        ev.Quiet: _quiet,
        ev.LockChanged: _lock_changed,
        ev.FlowsCounted: _flows_counted,
        ev.EndpointSeen: _endpoint_seen_running,
        ev.FlowsEntered: _flows_entered,
        ev.CarriedElsewhere: _carried_elsewhere,
    }
)
