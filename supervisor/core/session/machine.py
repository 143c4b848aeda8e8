"""What to decide when something happens to a tunnel: one table over phase and event, and the small
functions in it.

    state, actions = step(moment, state, event)

A pair of phase and event stands in `TABLE` or changes nothing. An event of an earlier session changes
nothing. After a Tick the deadline is gone or later than now. At most one client process exists per slot: only
`begin` spawns, and only `_ended` leads to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from supervisor.core import events as ev
from supervisor.core.humanize import ended
from supervisor.core.session.address_conflict import unusable
from supervisor.core.session.context import StepContext
from supervisor.core.session.escalation import climb
from supervisor.core.session.health import blind, filled, nothing_behind, proven, rated
from supervisor.core.session.liveness import HEARSAY, ROUNDS, blamed, missed
from supervisor.core.session.retry import RETRY, Retry, pause, stable
from supervisor.core.state import (
    Asking,
    Drain,
    Failure,
    Health,
    Leg,
    Phase,
    Rung,
    Session,
    TunnelState,
    Want,
    connected,
    well,
)
from tunnels.base import Connected, Failed, Full, Question, Reason

ANSWER_WITHIN = 300.0  # seconds that a person has to answer a question of the far side
QUIET_WITHIN = 900.0  # seconds that a reconnect which somebody wants waits for a quiet moment
LOOK_AGAIN = 30.0  # seconds between two looks at a dead uplink; its return is told by an event
SPREAD = 5.0  # seconds over which the starts after a dead uplink are spread
KILL_INTERVAL = 2.0  # seconds between two SIGKILLs of a tree that does not go

Result = tuple[TunnelState, tuple[ev.Action, ...]]


def step(m: StepContext, state: TunnelState, event: ev.Event) -> Result:
    """The state after the event, and what to do."""
    if event.session is not None and event.session != state.session.number:
        return state, ()
    handler = TABLE.get((state.phase, type(event)))
    if handler is None:
        return state, ()
    after, actions = handler(m, state, event)
    return (
        after if well(m.tunnel, after) == well(m.tunnel, state) else replace(after, well_since=m.now)
    ), actions


# --- asked for
# ----------------------------------------------------------------------------------------------------------

DOWN = (
    Reason.STOPPED,
    Reason.SHUTDOWN,
    Reason.PLANNED,
)  # PLANNED: this session, because another one has replaced it


def _ask_idle(m: StepContext, state: TunnelState, event: ev.Asked) -> Result:
    """Nothing runs: a wish is fulfilled at once, but for flows that wait for the tunnel to come back."""
    if event.reason in DOWN:
        waits = event.until is not None and state.phase is Phase.BACKOFF
        return _drain(state, event) if waits else _rest(m, replace(state, want=Want.DOWN), event.reason)
    return begin(m, _anew(replace(state, want=Want.UP, drain=None)), event.reason)


def _ask_running(m: StepContext, state: TunnelState, event: ev.Asked) -> Result:
    """A client runs: start is fulfilled already, anything else ends it first."""
    if event.reason in DOWN:
        return (
            _drain(state, event) if event.until is not None else _terminate(m, _unwanted(state), event.reason)
        )
    if event.reason in (Reason.RESTARTED, Reason.RECONFIGURED):
        return _terminate(m, _anew(replace(state, want=Want.UP, drain=None)), event.reason)
    return replace(state, want=Want.UP, drain=None), ()


def _ask_stopping(m: StepContext, state: TunnelState, event: ev.Asked) -> Result:
    """The client ends anyhow; only what follows may change."""
    if event.until is not None:
        return (state, ()) if state.want is Want.DOWN else _drain(state, event)
    want = Want.DOWN if event.reason in DOWN else Want.UP
    return replace(state, want=want, reason=event.reason, drain=None), ()


def _drain(state: TunnelState, event: ev.Asked) -> Result:
    """It goes on as it is, reconnects included, until its flows are over."""
    assert event.until is not None
    return replace(state, drain=Drain(event.reason, event.until)), ()


def _flows_counted(m: StepContext, state: TunnelState, event: ev.FlowsCounted) -> Result:
    """Without flows a tunnel that drains is simply unwanted."""
    if state.drain is None:
        return state, ()
    if event.left:
        return replace(state, drain=replace(state.drain, left=event.left, idle=event.idle)), ()
    asked = ev.Asked(m.tunnel.name, reason=state.drain.reason)
    return TABLE[state.phase, ev.Asked](m, state, asked)


def _unwanted(state: TunnelState) -> TunnelState:
    return replace(state, want=Want.DOWN, kept=False, drain=None)


def _inputs_changed(m: StepContext, state: TunnelState, event: ev.InputsChanged) -> Result:
    """What the tunnel waited for may have come. The inputs of one that has worked are not to blame: its
    pause is not cut short.
    """
    transient = RETRY[state.reason] not in (Retry.LOGIN, Retry.SUSPECT, Retry.SLOW) and state.refusals == 0
    if state.phase is Phase.BACKOFF and transient and state.proven:
        return replace(state, proven=False, kept=False), ()
    return begin(m, _anew(replace(state, proven=False)), Reason.INPUTS_CHANGED)


def _inputs_changed_meanwhile(m: StepContext, state: TunnelState, event: ev.InputsChanged) -> Result:
    """The running client goes on with the old ones; if these make it fail, the new ones are tried at once."""
    outdated = replace(state, proven=False, kept=False, outdated=True)
    if state.phase is not Phase.UP or not m.tunnel.login.reconnect_on_change or state.drain is not None:
        return outdated, ()
    by = m.now + QUIET_WITHIN
    return replace(
        outdated, reconnect_by=by, deadline=by if state.deadline is None else min(by, state.deadline)
    ), ()


def _quiet(m: StepContext, state: TunnelState, event: ev.Quiet) -> Result:
    """The moment that a reconnect has waited for."""
    return (state, ()) if state.reconnect_by is None else _reconnect(m, state)


def _reconnect(m: StepContext, state: TunnelState) -> Result:
    return _terminate(m, _anew(state), Reason.INPUTS_CHANGED if state.outdated else Reason.PLANNED)


def _anew(state: TunnelState) -> TunnelState:
    """Earlier failures do not count any more, and nothing of an earlier session is used again."""
    return replace(state, attempts=1, refusals=0, suspicions=0, login_after=0.0, kept=False, rung=None)


# --- the client
# ----------------------------------------------------------------------------------------------------------


def _spawned(m: StepContext, state: TunnelState, event: ev.Spawned) -> Result:
    session = replace(state.session, pid=event.pid, id=event.id, device=event.device, port=event.port)
    return replace(state, session=session), ()


def _spawn_failed(m: StepContext, state: TunnelState, event: ev.SpawnFailed) -> Result:
    return _ended(m, replace(state, failure=Failure(event.reason, event.text, m.now)), event.reason)


def _said(m: StepContext, state: TunnelState, event: ev.ClientSaid) -> Result:
    if isinstance(event.what, Connected):
        return _connected(m, state, event.what)
    if isinstance(event.what, Question):
        return _asked(m, state, event.what)
    if isinstance(event.what, Full):
        return filled(m.tunnel, state, event.what.text, m.now), ()
    if not isinstance(event.what, Failed):
        return state, ()
    return _terminate(
        m, replace(state, failure=Failure(event.what.reason, event.what.text, m.now)), event.what.reason
    )


def _asked(m: StepContext, state: TunnelState, question: Question) -> Result:
    """A person has some time to answer; a session that is up goes on meanwhile."""
    until = m.now + ANSWER_WITHIN
    return replace(
        state,
        asking=Asking(question, until),
        deadline=until if state.phase is Phase.STARTING else state.deadline,
    ), ()


def _answered(m: StepContext, state: TunnelState, event: ev.Answered) -> Result:
    return replace(
        state,
        asking=None,
        deadline=m.now + m.limits.start if state.phase is Phase.STARTING else state.deadline,
    ), ()


def _delayed(m: StepContext, state: TunnelState, event: ev.Delayed) -> Result:
    return replace(state, deadline=m.now + event.seconds + m.limits.start), ()


def _kept(m: StepContext, state: TunnelState, event: ev.Kept) -> Result:
    return replace(state, kept=event.kept), ()


def _said_while_stopping(m: StepContext, state: TunnelState, event: ev.ClientSaid) -> Result:
    """Last words of a client whose end was not asked for may explain it better than we could."""
    if not isinstance(event.what, Failed) or state.reason not in (
        Reason.START_TIMEOUT,
        Reason.UNHEALTHY,
        Reason.DEVICE_LOST,
    ):
        return state, ()
    return replace(
        state, reason=event.what.reason, failure=Failure(event.what.reason, event.what.text, m.now)
    ), ()


def _connected(m: StepContext, state: TunnelState, what: Connected) -> Result:
    session = connected(state.session, what, m.now, again=state.phase is Phase.UP)
    if text := next((text for address in session.assigned if (text := unusable(address))), None):
        return _conflict(m, state, text)
    state = replace(
        state, session=session, refusals=0, suspicions=0, login_after=0.0, proven=True, asking=None
    )
    if state.phase is Phase.UP:
        return state, ()
    up = replace(state, deadline=m.now + m.tunnel.reconnect.stable_after, reconnect_by=None)
    return _enter(m, up, Phase.UP, Reason.CONNECTED), ()


def _exited(m: StepContext, state: TunnelState, event: ev.Exited) -> Result:
    reason = Reason.EXITED if event.signal is None else Reason.KILLED
    return _ended(m, replace(state, failure=Failure(reason, ended(event.code, event.signal), m.now)), reason)


def _exited_stopping(m: StepContext, state: TunnelState, event: ev.Exited) -> Result:
    if state.want is Want.DOWN:
        return _rest(m, state, state.reason)
    if (
        state.reason is Reason.DEVICE_LOST
    ):  # a device goes with its process: how that ended explains it better
        return _exited(m, state, event)
    return _ended(m, state, state.reason)


def _never_spawned(m: StepContext, state: TunnelState, event: ev.SpawnFailed) -> Result:
    return _exited_stopping(m, state, ev.Exited(event.tunnel, event.session))


def _device_lost(m: StepContext, state: TunnelState, event: ev.DeviceLost) -> Result:
    text = f"device {state.session.device} vanished"
    return _terminate(m, replace(state, failure=Failure(Reason.DEVICE_LOST, text, m.now)), Reason.DEVICE_LOST)


def _address_conflict(m: StepContext, state: TunnelState, event: ev.AddressConflict) -> Result:
    return _conflict(m, state, event.text)


def _conflict(m: StepContext, state: TunnelState, text: str) -> Result:
    return _terminate(
        m, replace(state, failure=Failure(Reason.ADDRESS_CONFLICT, text, m.now)), Reason.ADDRESS_CONFLICT
    )


def _probed(m: StepContext, state: TunnelState, event: ev.Probed) -> Result:
    """One answer proves the path. Without one it depends on what is dead: only the tunnel itself is helped
    by a new session.
    """
    if event.rtt is not None:
        return rated(m.tunnel, proven(m.tunnel, state, event.rtt, m.now), event.rtt, m.now), ()
    state = missed(state, event.proof)
    dead = blamed(state)
    if dead is None:
        return rated(m.tunnel, state, None, m.now), ()
    if dead is Leg.DESTINATION:
        return nothing_behind(m.tunnel, state, m.now), ()
    if not m.uplink:
        return blind(state, m.now), ()
    crowded = (
        state.full is not None and state.misses < HEARSAY
    )  # no room, which is no sign of death; not for ever
    return (state, ()) if m.doubted or crowded else _silent(m, state)


def _silent(m: StepContext, state: TunnelState) -> Result:
    """Nothing passes: the client reconnects in place if it can, else it is given up."""
    text = f"no probe target answered in {state.misses} rounds"
    failure = Failure(Reason.UNHEALTHY, text, m.now)
    sick = replace(
        state,
        health=Health.UNHEALTHY,
        failure=failure,
        doubted=state.doubted or state.silence == 0,
        recent=(),
        degraded=None,
    )
    if m.limits.renews and not state.session.renewed:
        return _renew(m, sick)
    return _terminate(m, sick, Reason.UNHEALTHY)


def _uplink_back(m: StepContext, state: TunnelState, event: ev.UplinkBack) -> Result:
    """A session gets some rounds to prove itself; what waited begins within some seconds, not all at once."""
    if state.phase is Phase.UP:
        return replace(state, misses=0, silence=0, unheard=0), ()
    soon = m.now + m.jitter * SPREAD
    if RETRY[state.reason] is not Retry.BACKOFF or (state.deadline is not None and state.deadline < soon):
        return state, ()
    return replace(state, deadline=soon), ()


def _renew(m: StepContext, state: TunnelState) -> Result:
    renewing = replace(
        state,
        session=replace(state.session, renewed=True),
        rung=Rung.IN_PLACE,
        reason=Reason.UNHEALTHY,
        since=m.now,
        healthy_since=None,
        deadline=state.reconnect_by,
        misses=ROUNDS,
        silence=0,
        unheard=0,
    )
    return renewing, (ev.Renew(m.tunnel.name, state.session.number),)


def _endpoint_seen(m: StepContext, state: TunnelState, event: ev.EndpointSeen) -> Result:
    return replace(state, endpoint=event.reach), ()


def _path_mtu(m: StepContext, state: TunnelState, event: ev.PathMtu) -> Result:
    return replace(state, session=replace(state.session, path_mtu=event.mtu)), ()


# --- deadlines
# ----------------------------------------------------------------------------------------------------------


def _start_deadline(m: StepContext, state: TunnelState, event: ev.Tick) -> Result:
    if state.asking is not None:
        text = f"nobody answered within {ANSWER_WITHIN / 60:g} minutes: {state.asking.question.text}"
        return _terminate(m, replace(state, failure=Failure(Reason.CHALLENGE, text, m.now)), Reason.CHALLENGE)
    text = f"not connected {m.limits.start:g} s after its start"
    return _terminate(
        m, replace(state, failure=Failure(Reason.START_TIMEOUT, text, m.now)), Reason.START_TIMEOUT
    )


def _stable_deadline(m: StepContext, state: TunnelState, event: ev.Tick) -> Result:
    attempts = 0 if stable(m.tunnel, state, m.now) else state.attempts
    if state.reconnect_by is not None and state.reconnect_by <= m.now:
        return _reconnect(m, state)
    return replace(state, deadline=state.reconnect_by, attempts=attempts), ()


def _stop_deadline(m: StepContext, state: TunnelState, event: ev.Tick) -> Result:
    return replace(state, deadline=m.now + KILL_INTERVAL), (ev.Kill(m.tunnel.name, state.session.number),)


def _backoff_deadline(m: StepContext, state: TunnelState, event: ev.Tick) -> Result:
    """The pause is over; what only waited for its turn begins for the reason that it had."""
    return begin(m, state, state.reason if RETRY[state.reason] is Retry.NOW else Reason.RETRY)


# --- where it leads
# ----------------------------------------------------------------------------------------------------------


def _enter(m: StepContext, state: TunnelState, phase: Phase, reason: Reason) -> TunnelState:
    return replace(state, phase=phase, reason=reason, since=m.now, recent=(), degraded=None)


def begin(m: StepContext, state: TunnelState, reason: Reason) -> Result:
    """A session begins, or waits for its turn to."""
    if state.refusals >= m.tunnel.login.max_attempts:
        return _give_up(m, replace(state, turn=None, failure=_spent(m, state)), Reason.AUTH)
    if not m.uplink:
        waiting = replace(state, deadline=m.now + LOOK_AGAIN)
        known = state.phase is Phase.BACKOFF and state.reason is Reason.UPLINK
        return (waiting if known else _enter(m, waiting, Phase.BACKOFF, Reason.UPLINK)), ()
    if max(m.turn, state.login_after) > m.now:
        return _enter(
            m, replace(state, deadline=max(m.turn, state.login_after), turn=m.turn), Phase.BACKOFF, reason
        ), ()
    number = max(state.session.number, state.numbered) + 1
    last = state.session  # most likely it is the same path again
    session = Session(number, started=m.now, path_mtu=last.path_mtu, resumed=state.kept, slot=last.slot)
    fresh = replace(
        state,
        session=session,
        health=Health.UNKNOWN,
        misses=0,
        silence=0,
        unheard=0,
        healthy_since=None,
        last_rtt=None,
        turn=None,
        outdated=False,
        full=None,
        deadline=m.now + m.limits.start,
        reconnects=state.reconnects + (RETRY[reason] is not Retry.NOW),
    )
    return _enter(m, fresh, Phase.STARTING, reason), (
        ev.Spawn(m.tunnel.name, number, state.kept, state.remote, last.slot),
    )


def _spent(m: StepContext, state: TunnelState) -> Failure:
    """Why a tunnel does not even try: its own refusal, or those that other tunnels with its account have
    met.
    """
    if state.failure is not None and state.failure.reason is Reason.AUTH:
        return state.failure
    text = (
        f"not tried: the far side has refused the account {m.tunnel.login.username} {state.refusals} "
        f"times, for tunnels that share it"
    )
    return Failure(Reason.AUTH, text, m.now)


def _terminate(m: StepContext, state: TunnelState, reason: Reason) -> Result:
    ending = replace(state, deadline=m.now + m.limits.stop)
    return _enter(m, ending, Phase.STOPPING, reason), (
        ev.Terminate(m.tunnel.name, state.session.number, not state.kept),
    )


def _rest(m: StepContext, state: TunnelState, reason: Reason) -> Result:
    idle = replace(state, health=Health.UNKNOWN, deadline=None, asking=None, kept=False, drain=None)
    return _enter(m, idle, Phase.STOPPED, reason), ()


def _give_up(m: StepContext, state: TunnelState, reason: Reason) -> Result:
    """Only a human can help; nobody is needed for a tunnel that is to end."""
    if state.drain is not None:
        return _rest(m, _unwanted(state), state.drain.reason)
    return _enter(m, replace(state, deadline=None), Phase.FAILED, reason), ()


def _ended(m: StepContext, state: TunnelState, reason: Reason) -> Result:
    """No client runs any more, though the tunnel is wanted."""
    state = replace(
        state,
        attempts=0 if stable(m.tunnel, state, m.now) else state.attempts,
        refusals=state.refusals + 1 if reason is Reason.AUTH else state.refusals,
        suspicions=state.suspicions + 1 if reason is Reason.HANDSHAKE else 0,
    )
    if state.single:
        return _rest(m, state, reason)
    wait = pause(m.tunnel, state, reason, m.now, m.jitter)
    if state.outdated and RETRY[reason] is not Retry.BACKOFF:
        return begin(m, _anew(state), Reason.INPUTS_CHANGED)
    state = replace(
        climb(state, reason),
        attempts=state.attempts + 1,
        health=Health.UNKNOWN,
        healthy_since=None,
        asking=None,
        login_after=m.now + (wait or 0.0) if reason is Reason.AUTH else state.login_after,
    )
    if wait is None:
        return _give_up(m, state, reason)
    if wait <= 0.0:
        return begin(m, state, reason)
    return _enter(m, replace(state, deadline=m.now + wait), Phase.BACKOFF, reason), ()


Handler = Callable[[StepContext, TunnelState, Any], Result]

TABLE: Mapping[tuple[Phase, type[ev.Event]], Handler] = MappingProxyType(
    {
        (Phase.STOPPED, ev.Asked): _ask_idle,
        (Phase.STARTING, ev.Asked): _ask_running,
        (Phase.STARTING, ev.Spawned): _spawned,
        (Phase.STARTING, ev.SpawnFailed): _spawn_failed,
        (Phase.STARTING, ev.InputsChanged): _inputs_changed_meanwhile,
        (Phase.STARTING, ev.ClientSaid): _said,
        (Phase.STARTING, ev.Kept): _kept,
        (Phase.STARTING, ev.Delayed): _delayed,
        (Phase.STARTING, ev.Answered): _answered,
        (Phase.STARTING, ev.Exited): _exited,
        (Phase.STARTING, ev.AddressConflict): _address_conflict,
        (Phase.STARTING, ev.FlowsCounted): _flows_counted,
        (Phase.STARTING, ev.Tick): _start_deadline,
        (Phase.UP, ev.Asked): _ask_running,
        (Phase.UP, ev.InputsChanged): _inputs_changed_meanwhile,
        (Phase.UP, ev.ClientSaid): _said,
        (Phase.UP, ev.Kept): _kept,
        (Phase.UP, ev.Answered): _answered,
        (Phase.UP, ev.Exited): _exited,
        (Phase.UP, ev.DeviceLost): _device_lost,
        (Phase.UP, ev.AddressConflict): _address_conflict,
        (Phase.UP, ev.Probed): _probed,
        (Phase.UP, ev.PathMtu): _path_mtu,
        (Phase.UP, ev.UplinkBack): _uplink_back,
        (Phase.UP, ev.Quiet): _quiet,
        (Phase.UP, ev.FlowsCounted): _flows_counted,
        (Phase.UP, ev.Tick): _stable_deadline,
        (Phase.BACKOFF, ev.Asked): _ask_idle,
        (Phase.BACKOFF, ev.InputsChanged): _inputs_changed,
        (Phase.BACKOFF, ev.UplinkBack): _uplink_back,
        (Phase.BACKOFF, ev.FlowsCounted): _flows_counted,
        (Phase.BACKOFF, ev.Tick): _backoff_deadline,
        (Phase.STOPPING, ev.Asked): _ask_stopping,
        (Phase.STOPPING, ev.InputsChanged): _inputs_changed_meanwhile,
        (Phase.STOPPING, ev.ClientSaid): _said_while_stopping,
        (Phase.STOPPING, ev.Kept): _kept,
        (Phase.STOPPING, ev.Spawned): _spawned,
        (Phase.STOPPING, ev.SpawnFailed): _never_spawned,
        (Phase.STOPPING, ev.Exited): _exited_stopping,
        (Phase.STOPPING, ev.FlowsCounted): _flows_counted,
        (Phase.STOPPING, ev.Tick): _stop_deadline,
        (Phase.FAILED, ev.Asked): _ask_idle,
        (Phase.FAILED, ev.InputsChanged): _inputs_changed,
        **{(phase, ev.EndpointSeen): _endpoint_seen for phase in Phase},
    }
)
