"""Make-before-break: a standby session takes the place of the active one before that ends.

    due -> a standby starts in the free slot -> up -> well -> the two change places: new flows enter the new
    lane, in one transaction
        -> the replaced session drains: its flows go on in the old lane until they are over -> it ends

No session follows a standby that ends. While the standby could go on, none follows the active session either:
the standby is promoted instead. What the remote gateway makes of two sessions is learned by trying it once
(`Second`). Where it gives the second session the first one's address, the first is dead at that moment: the
two change places at once, and its flows move. Where it allows no second session, the client reconnects in
place if that begins a new session, else at a quiet moment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from supervisor.core import events as ev
from supervisor.core.session.context import Step, StepContext
from supervisor.core.session.lifetime import due, limit
from supervisor.core.session.machine import DOWN, Outcome, SessionStep, session_step, terminated
from supervisor.core.session.retry import accepted
from supervisor.core.session.tunnel_machine import ended, new_session, reconnect_at, tunnel_step
from supervisor.core.state import (
    Drain,
    Idle,
    Phase,
    RecoveryStep,
    RetryState,
    Second,
    SessionState,
    TunnelState,
    Want,
    well,
)
from tunnels.base import AnyKind, Reason
from tunnels.networks import IPNetwork
from tunnels.settings import Probe, Tunnel

RECHECK_SECONDS = 5.0  # until a planned reconnect that something stands against is tried again
TRY_AGAIN_SECONDS = 60.0  # after a standby that did not come up, and as many more by chance
HOPELESS_SECONDS = (
    3600.0  # the same after a failure that another attempt makes worse, or that takes an operator
)
PROBE_INTERVAL_SECONDS = 1.0  # at most, while it is to be learned whether two sessions can live
WATCHFUL_SECONDS = 2.0  # between two rounds, at most, where a suspicion moves flows
USUAL_INTERVAL_SECONDS = 5.0  # of `probe.interval`; a longer one is somebody's choice
PROVEN_SECONDS = 3.0  # a replaced session that still answers after this time was not ended by its successor
KICKED_WITHIN_SECONDS = 30.0  # in which a session shows that its successor has ended it
LAST_CALL_SECONDS = (
    30.0  # before the end of a session, at which the slot of the last one is cleared for the next
)
LONGEST_DRAIN_SECONDS = 8 * 3600.0  # of a replaced session that has no end of its own

_HOPELESS = (Reason.AUTH, Reason.CHALLENGE, Reason.BANNED)


def about_standby(state: TunnelState, event: ev.Event) -> SessionState | None:
    """The standby, if the event is about it."""
    standby = state.standby
    if standby is None:
        return None
    lost = (
        isinstance(event, ev.DeviceLost | ev.AddressConflict | ev.InterfaceRepaired)
        and event.device is not None
        and event.device == standby.session.device
    )
    return standby if lost or event.session == standby.session.number else None


# --- one of the two
# ----------------------------------------------------------------------------------------------------------


def active_step(c: StepContext, state: TunnelState, event: ev.Event) -> Step:
    """The tunnel after an event that is not about its standby. What is asked for concerns both sessions."""
    step = tunnel_step(c, state, event)
    standby = step.tunnel.standby
    if not isinstance(event, ev.Asked) or standby is None or event.reason is Reason.STARTED:
        return step
    if event.until is not None and not state.coming:
        return step
    reason = event.reason if event.reason in DOWN else Reason.PLANNED
    gone = withdrawn(c, standby, reason)
    return replace(
        step, tunnel=replace(step.tunnel, standby=gone.session), actions=step.actions + gone.actions
    )


def withdrawn(c: StepContext, standby: SessionState, reason: Reason) -> SessionStep:
    """The standby is not wanted any more."""
    if standby.phase is Phase.STOPPING:
        return SessionStep(replace(standby, reason=reason))
    return terminated(c, replace(standby, resumable=False, drain=None), reason)


def standby_step(c: StepContext, state: TunnelState, standby: SessionState, event: ev.Event) -> Step:
    """The tunnel after an event that is about its standby."""
    proven = _lives_on(c, state, standby, event)
    if proven:
        state = _taught(state, Second.ALLOWED)
    match event:
        case ev.FlowsCounted() if not event.left and state.known.second is not Second.ALLOWED:
            return Step(state)  # it would end before it has shown whether two sessions can live
        case ev.FlowsCounted():
            stepped = _flows_counted(c, standby, event)
        case ev.Asked():
            stepped = withdrawn(c, standby, event.reason)
        case _:
            stepped = session_step(c, standby, event)
    if stepped.outcome is Outcome.ENDED:
        return _standby_ended(c, replace(state, standby=None), stepped.session)
    if stepped.outcome is Outcome.CONNECTED:
        state = replace(state, retry=replace(state.retry, proven=True))
    return Step(replace(state, standby=stepped.session), stepped.actions)


def _flows_counted(c: StepContext, standby: SessionState, event: ev.FlowsCounted) -> SessionStep:
    """Without flows a session that was replaced ends."""
    if standby.drain is None:
        return SessionStep(standby)
    if event.left:
        return SessionStep(replace(standby, drain=replace(standby.drain, left=event.left, idle=event.idle)))
    return withdrawn(c, standby, standby.drain.reason)


def _lives_on(c: StepContext, state: TunnelState, standby: SessionState, event: ev.Event) -> bool:
    """The event shows that a replaced session works although its successor does."""
    begun = state.session.connected
    if begun is None or standby.phase is not Phase.UP or standby.drain is None:
        return False
    if isinstance(event, ev.Probed):
        return event.rtt is not None and c.now - begun >= PROVEN_SECONDS
    answers = standby.liveness.misses == 0 and c.now - begun >= KICKED_WITHIN_SECONDS
    return isinstance(event, ev.FlowsCounted) and answers


def _taught(state: TunnelState, second: Second) -> TunnelState:
    if state.known.second is second:
        return state
    return replace(state, known=replace(state.known, second=second))


def _standby_ended(c: StepContext, state: TunnelState, standby: SessionState) -> Step:
    """What the end of the standby says about the remote gateway, and when to try again."""
    over, own_end = (ended(c, standby),), standby.reason not in DOWN
    if standby.session.number < state.session.number:  # it had been replaced
        begun = state.session.connected
        soon = begun is not None and c.now - begun < KICKED_WITHIN_SECONDS
        return Step(_taught(state, Second.ENDS) if own_end and soon else state, ended=over)
    learned = state
    if standby.reason is Reason.FAR_END_FULL and state.phase is Phase.UP:
        learned = _taught(state, Second.REFUSED)
    if not own_end:
        planned = due(c.tunnel, learned, c.jitter, c.utc_offset)
        soonest = None if planned is None else max(planned, c.now + RECHECK_SECONDS)
        return Step(replace(learned, planned=soonest), ended=over)
    pause = TRY_AGAIN_SECONDS
    if standby.reason in _HOPELESS:
        pause = HOPELESS_SECONDS
    elif learned.known.second is not state.known.second:
        pause = RECHECK_SECONDS
    refusals = state.retry.refusals + (standby.reason is Reason.AUTH)
    retry = replace(state.retry, refusals=refusals, failure=standby.failure or state.retry.failure)
    planned = c.now + pause * (1.0 + c.jitter)
    return Step(replace(learned, planned=planned, retry=retry), ended=over)


# --- the two together
# ----------------------------------------------------------------------------------------------------------


def settled(c: StepContext, before: TunnelState, step: Step) -> Step:
    """What the state of one session means for the other one."""
    state, standby = step.tunnel, step.tunnel.standby
    if standby is None:
        return step
    if state.spare and state.phase is not Phase.UP and state.want is Want.UP:
        return _promoted(c, before, step, standby)
    active = state.active
    if active is None or not state.coming or standby.phase is not Phase.UP:
        return step
    if _same_address(active, standby) or well(c.tunnel, standby):
        return _exchanged(c, step, active, standby)
    return step


def _same_address(active: SessionState, standby: SessionState) -> bool:
    ours = [*active.session.assigned]
    return bool(ours) and ours == [*standby.session.assigned]


def _promoted(c: StepContext, before: TunnelState, step: Step, standby: SessionState) -> Step:
    """The active session ends before its successor is proven, or while its predecessor still lives: that one
    is what there is.
    """
    state = step.tunnel
    kicked = state.coming and standby.session.connected is not None and state.reason not in DOWN
    planned = None if state.coming else c.now + TRY_AGAIN_SECONDS * (1.0 + c.jitter)
    new = replace(
        state,
        active=replace(standby, drain=None),
        standby=state.active,
        idle=Idle(),
        drain=before.drain,
        planned=planned,
        retry=_handed_over(state.retry, standby),
    )
    return replace(step, tunnel=_taught(new, Second.ENDS) if kicked else new)


def _exchanged(c: StepContext, step: Step, active: SessionState, standby: SessionState) -> Step:
    """The standby carries from now on. The replaced session ends with its flows, or at once if it is dead
    already.
    """
    state = step.tunnel
    replaced, silent = _same_address(active, standby), active.recovery is RecoveryStep.LOGIN
    if replaced or silent:
        old = terminated(c, replace(active, resumable=False), Reason.PLANNED)
    else:
        end = limit(c.tunnel, state)
        until = c.now + LONGEST_DRAIN_SECONDS if end is None else end
        old = SessionStep(replace(active, drain=Drain(Reason.PLANNED, until)))
    new = replace(
        state, active=standby, standby=old.session, planned=None, retry=_handed_over(state.retry, standby)
    )
    new = _taught(new, Second.REPLACES) if replaced else new
    return replace(step, tunnel=new, actions=step.actions + old.actions)


def _handed_over(retry: RetryState, session: SessionState) -> RetryState:
    """What counts for the tunnel once this session is the active one."""
    fresh = replace(
        retry,
        attempts=1,
        suspicions=0,
        turn=None,
        failure=None,
        resumable=False,
        recovery=None,
        gave_up_on_hearsay=False,
    )
    return fresh if session.session.connected is None else accepted(fresh)


# --- the beginning
# ----------------------------------------------------------------------------------------------------------


def reconnect_due(c: StepContext, state: TunnelState, event: ev.ReconnectDue) -> Step:
    """The moment of the planned reconnect is reached."""
    active, standby = state.active, state.standby
    later = replace(
        state,
        planned=c.now + RECHECK_SECONDS * (1.0 + c.jitter),
        retry=state.retry if state.retry.turn is None else replace(state.retry, turn=None),
    )
    if active is None or active.phase is not Phase.UP or state.coming or state.drain is not None:
        return Step(later)
    if not event.free or not c.uplink or active.session.renewed:
        return Step(later)
    if state.retry.refusals:  # an account that is refused is not tried while the session lives
        return Step(replace(state, planned=c.now + HOPELESS_SECONDS))
    if standby is not None:
        return _slot_taken(c, later, standby)
    return _begun(c, state, active)


def _slot_taken(c: StepContext, state: TunnelState, standby: SessionState) -> Step:
    """The replaced session still has flows. It goes on until its slot is needed at last."""
    end = limit(c.tunnel, state)
    if end is None or c.now < end - LAST_CALL_SECONDS:
        return Step(state)
    gone = withdrawn(c, standby, Reason.PLANNED)
    return Step(replace(state, standby=gone.session), gone.actions)


def _begun(c: StepContext, state: TunnelState, active: SessionState) -> Step:
    """In the best way that the remote gateway and the client allow."""
    second, pairs = state.known.second, c.kind.allows_parallel(c.tunnel) and c.lock is None
    if pairs and second in (Second.UNKNOWN, Second.ALLOWED):
        return begin_standby(c, state, active)
    if c.kind.renew and c.kind.renew_starts_new_session:
        return _in_place(c, state, active)
    if pairs and second is Second.REPLACES:
        return begin_standby(c, state, active)
    return _at_a_quiet_moment(c, state, active)


def begin_standby(c: StepContext, state: TunnelState, active: SessionState) -> Step:
    """The standby logs in, in the free slot, as soon as it may."""
    if (moment := max(c.turn, state.retry.login_after)) > c.now:
        return Step(replace(state, planned=moment, retry=replace(state.retry, turn=c.turn)))
    anew = replace(state.retry, turn=None, resumable=False, recovery=None, gave_up_on_hearsay=False)
    free = replace(active.session, slot=1 - active.session.slot)
    standby, spawn = new_session(c, replace(state, retry=anew), Reason.PLANNED, free)
    retry = replace(state.retry, turn=None)
    number = standby.session.number + 1
    begun = replace(state, standby=standby, next_number=number, retry=retry, planned=None)
    return Step(begun, (spawn,))


def _in_place(c: StepContext, state: TunnelState, active: SessionState) -> Step:
    """The client begins a new session by itself; what is sent meanwhile waits in its interface."""
    renewing = replace(
        active,
        session=replace(active.session, renewed=True, connected=None, expires=None),
        recovery=RecoveryStep.IN_PLACE,
        reason=Reason.PLANNED,
        since=c.now,
    )
    order = ev.Renew(c.tunnel.name, active.session.number)
    return Step(replace(state, active=renewing, planned=None), (order,))


def _at_a_quiet_moment(c: StepContext, state: TunnelState, active: SessionState) -> Step:
    """It ends and starts over, in the last moment before its limit if no better one comes."""
    end = limit(c.tunnel, state)
    by = c.now if end is None else max(c.now, end - min(RECHECK_SECONDS, (end - c.now) / 2))
    return Step(replace(state, active=reconnect_at(active, by), planned=None))


def planning(
    tunnel: Tunnel, kind: AnyKind, state: TunnelState, jitter: float, utc_offset: float
) -> TunnelState:
    """The state under settings that may have changed."""
    if state.coming or kind.unlimited_session:
        return state
    return replace(state, planned=due(tunnel, state, jitter, utc_offset))


def rivals(tunnels: Iterable[Tunnel]) -> dict[str, frozenset[str]]:
    """For each tunnel that shares a destination with others: these. Only one of them is disturbed at a
    time.
    """
    able: dict[IPNetwork, set[str]] = {}
    for tunnel in tunnels:
        for destination in tunnel.destinations:
            able.setdefault(destination.staff_side, set()).add(tunnel.name)
    found: dict[str, set[str]] = {}
    for names in able.values():
        for name in names if len(names) > 1 else ():
            found.setdefault(name, set()).update(names - {name})
    return {name: frozenset(others) for name, others in found.items()}


def unsettled(state: TunnelState) -> bool:
    """It reconnects, or is about to."""
    return (
        state.coming
        or state.phase in (Phase.STARTING, Phase.STOPPING)
        or state.session.renewed
        or state.reconnect_by is not None
    )


def _soon_answered(active: SessionState | None) -> bool:
    """It is silent, and used to answer well within the shorter time."""
    if active is None or active.phase is not Phase.UP or active.reason is not Reason.UNHEALTHY:
        return False
    rtt = active.liveness.last_rtt
    return rtt is not None and rtt < PROBE_INTERVAL_SECONDS / 4


def watchful(probe: Probe) -> Probe:
    """How a session is probed whose flows can go elsewhere: a fault that comes right after a round is seen in
    seconds. Who has chosen long intervals keeps them.
    """
    if not WATCHFUL_SECONDS < probe.interval <= USUAL_INTERVAL_SECONDS:
        return probe
    return replace(probe, interval=WATCHFUL_SECONDS)


def beside(probe: Probe, state: TunnelState) -> Probe:
    """How the sessions are probed: quickly, while it is to be learned whether two can live, or whether a
    silent one is back.
    """
    standby = state.standby
    learning = standby is not None and standby.phase is Phase.UP
    if learning and not state.coming and state.known.second is Second.ALLOWED:
        learning = False
    if not learning and not _soon_answered(state.active):
        return probe
    fastest = PROBE_INTERVAL_SECONDS
    return replace(probe, interval=min(probe.interval, fastest), timeout=min(probe.timeout, fastest))
