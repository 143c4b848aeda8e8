"""A session takes the place of another one of its tunnel: make before break. `step` is what the engine
calls; `machine.step` is inside it.

    due -> a successor on the free slot -> up -> well -> the two change roles: new flows enter the new lane,
    in one transaction
        -> the predecessor drains: its flows go on in the old lane until they are over -> it ends

Each of the two is driven by the machine as if it were alone, and is `single` while the other one could go on:
when it ends, none follows it by itself. What the far side makes of two sessions is learned by trying once
(`Second`). Where it gives the second one the first one's address, the first is dead at that moment: the roles
change at once, and its flows move. Where it allows no second session, the client reconnects in place if that
begins a session anew, else at a quiet moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from supervisor.core import events as ev
from supervisor.core.session import machine
from supervisor.core.session.context import KindLimits, StepContext
from supervisor.core.session.lifetime import due, lengthened, limit
from supervisor.core.state import Health, Phase, Rung, Second, Session, TunnelState, Want, well
from tunnels.base import Reason
from tunnels.settings import IPNetwork, Probe, Tunnel

LOOK_AGAIN = 5.0  # seconds after which something that stood in the way is looked at again
TRY_AGAIN = 60.0  # seconds after a successor that did not come up, and as many more by chance
HOPELESS = 3600.0  # the same, where it would make it worse, or takes a human
QUICK = 1.0  # seconds between probes then
PROOF = 3.0  # seconds after which a predecessor that still works was not ended by its successor
KICKED_WITHIN = 30.0  # seconds in which one that was ended by it shows that
LAST_CALL = (
    30.0  # seconds before the end of a session at which the slot of the last one is taken for the next one
)
LONGEST = 8 * 3600.0  # seconds that a predecessor waits for its flows where its session has no end

_HOPELESS = (Reason.AUTH, Reason.CHALLENGE, Reason.BANNED)
_OVER = (Phase.STOPPED, Phase.FAILED)


@dataclass(frozen=True, slots=True)
class SessionOutcome:
    """The state after an event, what to do, and the session that is gone with it: one of two, so that the
    state does not tell of it.
    """

    state: TunnelState
    actions: tuple[ev.Action, ...] = ()
    gone: TunnelState | None = None


def concerned(state: TunnelState, event: ev.Event) -> TunnelState:
    """The session that the event is about."""
    other = state.other
    if other is None:
        return state
    lost = (
        isinstance(event, ev.DeviceLost | ev.AddressConflict)
        and event.device is not None
        and event.device == other.session.device
    )
    return other if lost or event.session == other.session.number else state


def step(m: StepContext, state: TunnelState, event: ev.Event) -> SessionOutcome:
    """One step of a tunnel."""
    if isinstance(event, ev.ReconnectDue):
        outcome = _due(m, state, event)
    elif concerned(state, event) is not state:
        outcome = _other(m, state, event)
    else:
        outcome = _main(m, state, event)
    outcome = _settled(m, state, outcome)
    after = _counted(m, state, outcome)
    if _plans_on(after) != _plans_on(state) and after.planned == state.planned:
        after = replace(after, planned=None if m.limits.endless else due(m.tunnel, after, m.jitter, m.zone))
    return replace(outcome, state=after)


def _plans_on(state: TunnelState) -> tuple[object, ...]:
    """What the moment of the next planned reconnect depends on."""
    session = state.session
    return session.number, session.connected, session.expires, state.phase, state.known, state.drain is None


def _counted(m: StepContext, before: TunnelState, outcome: SessionOutcome) -> TunnelState:
    """With what the step has taught about the length of sessions, and with the highest number."""
    after, known = outcome.state, outcome.state.known
    for was, side in sides_of(before, outcome):
        over = was.phase is Phase.UP and (
            side.phase is not Phase.UP or side.session.number != was.session.number
        )
        if over and was.session.connected is not None:
            known = lengthened(known, m.now - was.session.connected, side.reason)
    numbered = max(before.numbered, *(side.session.number for side in after.sides))
    return (
        replace(after, known=known, numbered=numbered)
        if (known, numbered) != (after.known, after.numbered)
        else after
    )


# --- one of the two
# ----------------------------------------------------------------------------------------------------------


def _of_machine(m: StepContext, side: TunnelState, event: ev.Event) -> machine.Result:
    return machine.step(
        replace(m, limits=replace(m.limits, renews=False)) if side.single and m.limits.renews else m,
        side,
        event,
    )


def _main(m: StepContext, state: TunnelState, event: ev.Event) -> SessionOutcome:
    after, actions = _of_machine(m, state, event)
    if (
        state.session.connected is None
        and after.session.connected is not None
        and after.reason is Reason.PLANNED
    ):
        after = replace(after, reason=Reason.CONNECTED, since=m.now)  # in place
    if isinstance(event, ev.Asked) and after.other is not None and event.reason is not Reason.STARTED:
        reason = event.reason if event.reason in machine.DOWN else Reason.PLANNED
        if event.until is None or state.coming:
            other, more = _of_machine(m, after.other, ev.Asked(event.tunnel, reason=reason))
            return SessionOutcome(replace(after, other=other), actions + more)
    return SessionOutcome(after, actions)


def _other(m: StepContext, state: TunnelState, event: ev.Event) -> SessionOutcome:
    assert state.other is not None
    proven = _lives_on(m, state, event)
    if (
        isinstance(event, ev.FlowsCounted)
        and not event.left
        and not proven
        and state.known.second is not Second.ALLOWED
    ):
        return SessionOutcome(state)  # it would end before it has shown whether it may live
    other, actions = _of_machine(m, state.other, event)
    state = replace(state, other=other)
    return SessionOutcome(_taught(state, Second.ALLOWED) if proven else state, actions)


def _lives_on(m: StepContext, state: TunnelState, event: ev.Event) -> bool:
    """The event shows that a predecessor works although its successor does."""
    other, begun = state.other, state.session.connected
    if other is None or begun is None or other.phase is not Phase.UP or other.drain is None:
        return False
    if isinstance(event, ev.Probed):
        return event.rtt is not None and m.now - begun >= PROOF
    return isinstance(event, ev.FlowsCounted) and other.misses == 0 and m.now - begun >= KICKED_WITHIN


def _taught(state: TunnelState, second: Second) -> TunnelState:
    return (
        state if state.known.second is second else replace(state, known=replace(state.known, second=second))
    )


# --- the two together
# ----------------------------------------------------------------------------------------------------------


def _settled(m: StepContext, before: TunnelState, outcome: SessionOutcome) -> SessionOutcome:
    """What the one's state means for the other."""
    state = outcome.state
    if state.other is None:
        return outcome
    if state.other.phase in _OVER:
        return _ended(m, state, state.other, outcome.actions)
    spare = state.coming or state.other.phase is Phase.UP
    if spare and state.phase is not Phase.UP and state.want is Want.UP:
        return _promoted(m, before, state, outcome.actions)
    if (
        state.coming
        and state.other.phase is Phase.UP
        and (_same_address(state) or well(m.tunnel, state.other))
    ):
        return _exchanged(m, before, state, outcome.actions)
    return outcome if state.single is spare else replace(outcome, state=replace(state, single=spare))


def _same_address(state: TunnelState) -> bool:
    return (
        state.other is not None
        and any(state.session.assigned)
        and [*state.session.assigned] == [*state.other.session.assigned]
    )


def _ended(
    m: StepContext, state: TunnelState, other: TunnelState, actions: tuple[ev.Action, ...]
) -> SessionOutcome:
    """One of two is gone; what its end says about the far side, and when to try again."""
    alone = replace(state, other=None, single=False)
    own_end = other.reason not in machine.DOWN
    if other.session.number < state.session.number:
        soon = state.session.connected is not None and m.now - state.session.connected < KICKED_WITHIN
        return SessionOutcome(_taught(alone, Second.ENDS) if own_end and soon else alone, actions, other)
    if other.reason is Reason.FAR_END_FULL and state.phase is Phase.UP:
        alone = _taught(alone, Second.REFUSED)
    if not own_end:
        return SessionOutcome(
            replace(alone, planned=None if state.phase is not Phase.UP else m.now + LOOK_AGAIN),
            actions,
            other,
        )
    pause = (
        HOPELESS
        if other.reason in _HOPELESS
        else LOOK_AGAIN
        if alone.known.second is not state.known.second
        else TRY_AGAIN
    )
    return SessionOutcome(
        replace(
            alone, planned=m.now + pause * (1.0 + m.jitter), refusals=other.refusals, failure=other.failure
        ),
        actions,
        other,
    )


def _promoted(
    m: StepContext, before: TunnelState, state: TunnelState, actions: tuple[ev.Action, ...]
) -> SessionOutcome:
    """The session ends before its successor is proven, or while its predecessor still lives: that one is
    what there is.
    """
    assert state.other is not None
    kicked = state.coming and state.other.session.connected is not None and state.reason not in machine.DOWN
    new = _heir(m, before, state, state.other)
    new = _taught(new, Second.ENDS) if kicked else new
    if not state.coming:
        new = replace(new, planned=m.now + TRY_AGAIN * (1.0 + m.jitter))
    if state.phase in _OVER:
        return SessionOutcome(new, actions, replace(state, other=None))
    return SessionOutcome(replace(new, other=replace(state, other=None, single=True)), actions)


def _exchanged(
    m: StepContext, before: TunnelState, state: TunnelState, actions: tuple[ev.Action, ...]
) -> SessionOutcome:
    """The successor carries from now on. Its predecessor ends with its flows, or at once if it is dead
    already.
    """
    assert state.other is not None
    replaced = _same_address(state)
    end = limit(m.tunnel, state)
    until = None if replaced else m.now + LONGEST if end is None else end
    old = replace(state, other=None, single=True, planned=None)
    old, more = _of_machine(m, old, ev.Asked(m.tunnel.name, reason=Reason.PLANNED, until=until))
    new = _heir(m, before, state, state.other)
    return SessionOutcome(
        replace(_taught(new, Second.REPLACES) if replaced else new, other=old), actions + more
    )


def _heir(m: StepContext, before: TunnelState, state: TunnelState, new: TunnelState) -> TunnelState:
    """The successor as what the tunnel is now."""
    same = well(m.tunnel, new) == well(m.tunnel, before)
    return replace(
        new,
        want=state.want,
        other=None,
        single=False,
        numbered=state.numbered,
        known=state.known,
        planned=None,
        endpoint=state.endpoint,
        reconnects=state.reconnects,
        well_since=before.well_since if same else m.now,
        drain=before.drain,
    )


# --- the beginning
# ----------------------------------------------------------------------------------------------------------


def _due(m: StepContext, state: TunnelState, event: ev.ReconnectDue) -> SessionOutcome:
    later = SessionOutcome(replace(state, planned=m.now + LOOK_AGAIN * (1.0 + m.jitter)))
    if (
        not event.free
        or not m.uplink
        or state.coming
        or state.phase is not Phase.UP
        or state.drain is not None
    ):
        return later
    if state.refusals:  # an account that is refused is not tried while the session lives
        return SessionOutcome(replace(state, planned=m.now + HOPELESS))
    if state.other is not None:
        return _slot_taken(m, later.state, state.other)
    return _begun(m, state)


def _slot_taken(m: StepContext, state: TunnelState, other: TunnelState) -> SessionOutcome:
    """The last session still has flows; at last its slot is needed."""
    end = limit(m.tunnel, state)
    if end is None or m.now < end - LAST_CALL:
        return SessionOutcome(state)
    other, actions = _of_machine(m, other, ev.Asked(m.tunnel.name, reason=Reason.PLANNED))
    return SessionOutcome(replace(state, other=other), actions)


def _begun(m: StepContext, state: TunnelState) -> SessionOutcome:
    """In the best way that the far side and the client allow."""
    if m.limits.pairs and state.known.second in (Second.UNKNOWN, Second.ALLOWED):
        return _succeeded(m, state)
    if m.limits.renews and m.limits.renews_login:
        return _in_place(m, state)
    return (
        _succeeded(m, state)
        if m.limits.pairs and state.known.second is Second.REPLACES
        else _at_a_quiet_moment(m, state)
    )


def _succeeded(m: StepContext, state: TunnelState) -> SessionOutcome:
    """A successor logs in, on the free slot."""
    number = max(state.numbered, state.session.number) + 1
    fresh = TunnelState(
        reason=Reason.PLANNED,
        since=m.now,
        well_since=m.now,
        refusals=state.refusals,
        login_after=state.login_after,
        remote=state.remote,
        proven=state.proven,
        single=True,
        numbered=number,
        session=Session(number, path_mtu=state.session.path_mtu, slot=1 - state.session.slot),
    )
    other, actions = machine.begin(m, fresh, Reason.PLANNED)
    return SessionOutcome(replace(state, other=other, single=True, planned=None), actions)


def _in_place(m: StepContext, state: TunnelState) -> SessionOutcome:
    """The client begins a session anew by itself; what is sent meanwhile waits in its device."""
    session = replace(state.session, renewed=True, connected=None, expires=None)
    renewing = replace(
        state, session=session, rung=Rung.IN_PLACE, reason=Reason.PLANNED, since=m.now, planned=None
    )
    return SessionOutcome(renewing, (ev.Renew(m.tunnel.name, state.session.number),))


def _at_a_quiet_moment(m: StepContext, state: TunnelState) -> SessionOutcome:
    """It ends and begins anew, in the last moment before its limit if no better one comes."""
    end = limit(m.tunnel, state)
    by = m.now if end is None else max(m.now, end - min(LOOK_AGAIN, (end - m.now) / 2))
    deadline = by if state.deadline is None else min(by, state.deadline)
    return SessionOutcome(replace(state, reconnect_by=by, deadline=deadline, planned=None))


def planning(tunnel: Tunnel, state: TunnelState, limits: KindLimits, luck: float, zone: float) -> TunnelState:
    """The state under settings that may have changed."""
    return state if state.coming or limits.endless else replace(state, planned=due(tunnel, state, luck, zone))


def sides_of(before: TunnelState, outcome: SessionOutcome) -> Sequence[tuple[TunnelState, TunnelState]]:
    """Each session before and after the step; one that begins comes out of nothing."""
    after = [*outcome.state.sides, *(() if outcome.gone is None else (outcome.gone,))]
    known = {side.session.number: side for side in before.sides}
    old = [known.pop(side.session.number, None) for side in after]
    left = iter(known.values())  # a session that was followed by another one on its slot
    return [(was or next(left, None) or _nothing(side), side) for was, side in zip(old, after, strict=True)]


def _nothing(side: TunnelState) -> TunnelState:
    return replace(
        side,
        phase=Phase.STOPPED,
        health=Health.UNKNOWN,
        session=replace(side.session, number=0),
        reason=Reason.PLANNED,
    )


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


def beside(probe: Probe, state: TunnelState) -> Probe:
    """How both of two sessions are probed: quickly, while it is to be learned whether they can live beside
    each other.
    """
    other = state.other
    tried = (
        other is None
        or other.phase is not Phase.UP
        or (not state.coming and state.known.second is Second.ALLOWED)
    )
    return (
        probe
        if tried
        else probe.model_copy(
            update={"interval": min(probe.interval, QUICK), "timeout": min(probe.timeout, QUICK)}
        )
    )
