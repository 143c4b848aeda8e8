"""The state machine of one session: a table over phase and event, and the small functions in it.

    session, actions, outcome = session_step(context, session, event)

A session is STARTING, UP or STOPPING. What its end means for the tunnel is decided in
`core.session.tunnel_machine` (the active session) and `core.session.handover` (the standby). A pair of phase
and event that is not in `TABLE` changes nothing. After a Tick the deadline is gone or later than now.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from supervisor.core import events as ev
from supervisor.core.humanize import exit_text
from supervisor.core.session.address_conflict import unusable
from supervisor.core.session.context import StepContext
from supervisor.core.session.health import blind, filled, halted, nothing_behind, proven, rated, silent
from supervisor.core.session.liveness import ROUNDS, UNPROVEN_ROUNDS, blamed, forgotten, missed
from supervisor.core.session.probe_targets import judged
from supervisor.core.session.protocol_signs import noted, shown
from supervisor.core.session.retry import stable
from supervisor.core.state import Asking, Failure, Leg, Phase, Proof, RecoveryStep, SessionState, connected
from tunnels.base import Connected, Failed, Full, NextServer, Question, Reason, SignOfLife, Wanted

ANSWER_SECONDS = 300.0  # that a person has to answer a question of the remote gateway
# After a code was given to a client that is up, until packets must pass again: the rest of the renegotiation.
CODE_TAKEN_SECONDS = 15.0
KILL_INTERVAL_SECONDS = 2.0  # between two SIGKILLs of a process tree that does not end

# Reasons to end a session for good. PLANNED: this session, because another one has replaced it.
DOWN = (Reason.STOPPED, Reason.SHUTDOWN, Reason.PLANNED)


class Outcome(enum.Enum):
    """What a step of a session means for its tunnel."""

    GOES_ON = enum.auto()
    CONNECTED = enum.auto()  # the client has (again) reported that it is connected
    STABLE = enum.auto()  # earlier failures do not count any more
    RECONNECTS = enum.auto()  # it ends because its time is over; the next one begins from nothing
    ENDED = enum.auto()  # its client is gone, for the session's `reason`


@dataclass(frozen=True, slots=True)
class SessionStep:
    """What comes of one event for one session."""

    session: SessionState
    actions: tuple[ev.Action, ...] = ()
    outcome: Outcome = Outcome.GOES_ON


def session_step(c: StepContext, session: SessionState, event: ev.Event) -> SessionStep:
    """The session after the event."""
    if isinstance(event, ev.Probed) and session.phase is Phase.UP:
        return _probed(c, session, event)
    handler = TABLE.get((session.phase, type(event)))
    return SessionStep(session) if handler is None else handler(c, session, event)


def terminated(c: StepContext, session: SessionState, reason: Reason) -> SessionStep:
    """The client is asked to end; it logs off unless the session is to be continued."""
    ending = _entered(c, replace(session, deadline=c.now + c.kind.stop_timeout), Phase.STOPPING, reason)
    leave = ev.Terminate(c.tunnel.name, session.session.number, not session.resumable)
    return SessionStep(ending, (leave,))


def reconnecting(c: StepContext, session: SessionState) -> SessionStep:
    """It ends so that another one can begin: in time, or with other inputs."""
    reason = Reason.INPUTS_CHANGED if session.outdated else Reason.PLANNED
    return replace(terminated(c, replace(session, resumable=False), reason), outcome=Outcome.RECONNECTS)


def _entered(c: StepContext, session: SessionState, phase: Phase, reason: Reason) -> SessionState:
    liveness = replace(session.liveness, recent=(), degraded=None)
    return replace(session, phase=phase, reason=reason, since=c.now, liveness=liveness)


def _failed(c: StepContext, session: SessionState, reason: Reason, text: str) -> SessionState:
    return replace(session, failure=Failure(reason, text, c.now))


def _ended(c: StepContext, session: SessionState, reason: Reason) -> SessionStep:
    return SessionStep(replace(session, reason=reason), outcome=Outcome.ENDED)


# --- the client
# ----------------------------------------------------------------------------------------------------------


def _spawned(c: StepContext, session: SessionState, event: ev.Spawned) -> SessionStep:
    facts = replace(session.session, pid=event.pid, id=event.id, device=event.device, port=event.port)
    return SessionStep(replace(session, session=facts))


def _spawn_failed(c: StepContext, session: SessionState, event: ev.SpawnFailed) -> SessionStep:
    return _ended(c, _failed(c, session, event.reason, event.text), event.reason)


def _said(c: StepContext, session: SessionState, event: ev.ClientSaid) -> SessionStep:
    match event.what:
        case Connected():
            return _connected(c, session, event.what)
        case Question():
            return _asked(c, session, event.what)
        case SignOfLife() | Full():
            return SessionStep(_reported(c, session, event.what))
        case NextServer():
            return _next_server(c, session)
        case Failed():
            failed = _failed(c, session, event.what.reason, _explained(session, event.what))
            return terminated(c, failed, event.what.reason)
        case _:
            return SessionStep(session)


def _reported(c: StepContext, session: SessionState, what: SignOfLife | Full) -> SessionState:
    if isinstance(what, SignOfLife):
        return noted(c, session, what)
    return filled(c.tunnel, session, what.text, c.now)


def _explained(session: SessionState, what: Failed) -> str:
    """A server does not say which part of a login it refuses."""
    if what.reason is not Reason.AUTH or session.code_at is None:
        return what.text
    return (
        f"{what.text} (a one-time password was part of the login: check login.password, login.totp and the clock "
        f"of this host)"
    )


def _connected(c: StepContext, session: SessionState, what: Connected) -> SessionStep:
    again = session.phase is Phase.UP
    facts = connected(session.session, what, c.now, again=again)
    if text := next((text for address in facts.assigned if (text := unusable(address))), None):
        return _conflict(c, session, text)
    begun_anew = session.session.connected is None
    session = replace(session, session=facts, asking=None)
    if not again:
        up = replace(session, deadline=c.now + c.tunnel.reconnect.stable_after, reconnect_by=None)
        session = _entered(c, up, Phase.UP, Reason.CONNECTED)
    elif begun_anew and session.reason is Reason.PLANNED:  # in place
        session = replace(session, reason=Reason.CONNECTED, since=c.now)
    return SessionStep(session, outcome=Outcome.CONNECTED)


def _asked(c: StepContext, session: SessionState, question: Question) -> SessionStep:
    """A person has some time to answer, also while a session that is up renegotiates."""
    until = c.now + ANSWER_SECONDS
    known = None if session.phase is Phase.STARTING else session.deadline
    deadline = until if known is None else min(until, known)
    return SessionStep(replace(session, asking=Asking(question, until), deadline=deadline))


def _next_server(c: StepContext, session: SessionState) -> SessionStep:
    """It makes progress; its client ends by itself after the last one."""
    if session.phase is not Phase.STARTING:
        return SessionStep(session)
    return SessionStep(replace(session, deadline=c.now + c.kind.start_timeout))


def _answered(c: StepContext, session: SessionState, event: ev.Answered) -> SessionStep:
    starting, asking = session.phase is Phase.STARTING, session.asking
    deadline = c.now + c.kind.start_timeout if starting else session.deadline
    code = asking is not None and asking.question.wanted is Wanted.CODE
    code_at = c.now if code else session.code_at
    return SessionStep(replace(session, asking=None, code_at=code_at, deadline=deadline))


def _delayed(c: StepContext, session: SessionState, event: ev.Delayed) -> SessionStep:
    until = c.now + event.seconds
    starting = session.phase is Phase.STARTING
    deadline = until + c.kind.start_timeout if starting else session.deadline
    return SessionStep(replace(session, code_at=until, deadline=deadline))


def _halted(session: SessionState, now: float) -> bool:
    """Whether a session that is up waits for a person or a code: OpenVPN passes no packets while it does."""
    code_at = session.code_at
    return session.asking is not None or (code_at is not None and now < code_at + CODE_TAKEN_SECONDS)


def _kept(c: StepContext, session: SessionState, event: ev.Kept) -> SessionStep:
    return SessionStep(replace(session, resumable=event.kept))


def _said_while_stopping(c: StepContext, session: SessionState, event: ev.ClientSaid) -> SessionStep:
    """The last words of a client whose end was not requested may explain it better than we could."""
    ours = (Reason.START_TIMEOUT, Reason.UNHEALTHY, Reason.DEVICE_LOST)
    if not isinstance(event.what, Failed) or session.reason not in ours:
        return SessionStep(session)
    failed = _failed(c, session, event.what.reason, event.what.text)
    return SessionStep(replace(failed, reason=event.what.reason))


def _exited(c: StepContext, session: SessionState, event: ev.Exited) -> SessionStep:
    reason = Reason.EXITED if event.signal is None else Reason.KILLED
    return _ended(c, _failed(c, session, reason, exit_text(event.code, event.signal, event.said)), reason)


def _exited_stopping(c: StepContext, session: SessionState, event: ev.Exited) -> SessionStep:
    if (
        session.reason is Reason.DEVICE_LOST
    ):  # it vanishes with its process: how that ended explains it better
        return _exited(c, session, event)
    return _ended(c, session, session.reason)


def _never_spawned(c: StepContext, session: SessionState, event: ev.SpawnFailed) -> SessionStep:
    return _exited_stopping(c, session, ev.Exited(event.tunnel, event.session))


def _device_lost(c: StepContext, session: SessionState, event: ev.DeviceLost) -> SessionStep:
    text = f"interface {session.session.device} vanished"
    return terminated(c, _failed(c, session, Reason.DEVICE_LOST, text), Reason.DEVICE_LOST)


def _interface_repaired(c: StepContext, session: SessionState, event: ev.InterfaceRepaired) -> SessionStep:
    """The session goes on; that something went wrong is kept."""
    return SessionStep(_failed(c, session, Reason.LOCAL, event.text))


def _source_lost(c: StepContext, session: SessionState, event: ev.SourceLost) -> SessionStep:
    text = f"this host has lost the address {event.address}, from which the client talked to its gateway"
    return terminated(c, _failed(c, session, Reason.NETWORK, text), Reason.NETWORK)


def _address_conflict(c: StepContext, session: SessionState, event: ev.AddressConflict) -> SessionStep:
    return _conflict(c, session, event.text)


def _conflict(c: StepContext, session: SessionState, text: str) -> SessionStep:
    return terminated(c, _failed(c, session, Reason.ADDRESS_CONFLICT, text), Reason.ADDRESS_CONFLICT)


def _path_mtu(c: StepContext, session: SessionState, event: ev.PathMtu) -> SessionStep:
    return SessionStep(replace(session, session=replace(session.session, path_mtu=event.mtu)))


# --- probes
# ----------------------------------------------------------------------------------------------------------


def _probed(c: StepContext, session: SessionState, event: ev.Probed) -> SessionStep:
    """One answer proves the path. Without one it depends on what is dead: only the tunnel itself is helped
    by a new session, about which `core.session.silence` decides.
    """
    silent = judged(session.liveness.silent, event.silent, c.now)
    if silent != session.liveness.silent:
        session = replace(session, liveness=replace(session.liveness, silent=silent))
    if event.rtt is not None:
        well = proven(c.tunnel, session, event.rtt, c.now)
        return SessionStep(rated(c.tunnel, well, event.rtt, c.now))
    if event.proof in (Proof.TRAFFIC, Proof.REPEATED):
        well = proven(c.tunnel, session, session.liveness.last_rtt, c.now)
        lost = event.proof is Proof.REPEATED
        return SessionStep(rated(c.tunnel, well, None, c.now) if lost else well)
    evidence = shown(c, session, event.proof)
    session = replace(session, liveness=missed(session.liveness, evidence, c.now))
    asks = (ev.AskSignOfLife(c.tunnel.name, session.session.number),) if c.kind.ask_sign_of_life else ()
    return SessionStep(_unanswered_round(c, session, evidence), asks)


def _unanswered_round(c: StepContext, session: SessionState, evidence: Proof | None) -> SessionState:
    dead = blamed(session)
    if dead is None:
        return rated(c.tunnel, session, None, c.now)
    if _halted(session, c.now):
        return halted(session, c.now)
    if dead is Leg.DESTINATION and evidence is not None:
        return nothing_behind(c.tunnel, session, evidence, c.now)
    if not c.uplink:
        return blind(session, c.now)
    # A client without room for more connections may be alive all the same, but not for ever.
    crowded = session.liveness.full is not None and session.liveness.misses < UNPROVEN_ROUNDS
    return session if c.doubted or crowded else silent(session, c.now)


def given_up(c: StepContext, session: SessionState) -> SessionStep:
    """A silent session ends."""
    return terminated(c, _found_silent(c, session), Reason.UNHEALTHY)


def renewed(c: StepContext, session: SessionState) -> SessionStep:
    """The client of a silent session is told to reconnect in place, and has until `ROUNDS` more rounds have
    passed in silence.
    """
    session = _found_silent(c, session)
    liveness = replace(forgotten(session.liveness), misses=ROUNDS, healthy_since=None)
    renewing = replace(
        session,
        session=replace(session.session, renewed=True),
        recovery=RecoveryStep.IN_PLACE,
        reason=Reason.UNHEALTHY,
        since=c.now,
        deadline=session.reconnect_by,
        liveness=liveness,
    )
    return SessionStep(renewing, (ev.Renew(c.tunnel.name, session.session.number),))


def _found_silent(c: StepContext, session: SessionState) -> SessionState:
    liveness = session.liveness
    hearsay = liveness.gave_up_on_hearsay or liveness.rounds_without_traffic == 0
    failed = _failed(c, session, Reason.UNHEALTHY, f"no probe target answered in {liveness.misses} rounds")
    return replace(failed, liveness=replace(liveness, gave_up_on_hearsay=hearsay))


def _suspected(c: StepContext, session: SessionState, event: ev.Suspected) -> SessionStep:
    """A suspicion moves new flows; it ends no session."""
    known = session.liveness
    if known.suspected is not None:
        return SessionStep(session)
    return SessionStep(replace(session, liveness=replace(known, suspected=c.now)))


def _uplink_back(c: StepContext, session: SessionState, event: ev.UplinkBack) -> SessionStep:
    """The session gets some rounds to prove itself."""
    return SessionStep(replace(session, liveness=forgotten(session.liveness)))


# --- deadlines
# ----------------------------------------------------------------------------------------------------------


def _start_deadline(c: StepContext, session: SessionState, event: ev.Tick) -> SessionStep:
    if session.asking is not None:
        return _unanswered(c, session, session.asking)
    text = f"not connected {c.kind.start_timeout:g} s after its start"
    return terminated(c, _failed(c, session, Reason.START_TIMEOUT, text), Reason.START_TIMEOUT)


def _unanswered(c: StepContext, session: SessionState, asking: Asking) -> SessionStep:
    text = f"nobody answered within {ANSWER_SECONDS / 60:g} minutes: {asking.question.text}"
    return terminated(c, _failed(c, session, Reason.CHALLENGE, text), Reason.CHALLENGE)


def _stable_deadline(c: StepContext, session: SessionState, event: ev.Tick) -> SessionStep:
    asking = session.asking
    if asking is not None and asking.until <= c.now:
        return _unanswered(c, session, asking)
    if session.reconnect_by is not None and session.reconnect_by <= c.now:
        return reconnecting(c, session)
    outcome = Outcome.STABLE if stable(c.tunnel, session, c.now) else Outcome.GOES_ON
    moments = [session.reconnect_by, None if asking is None else asking.until, _stable_at(c, session)]
    deadline = min((each for each in moments if each is not None), default=None)
    return SessionStep(replace(session, deadline=deadline), outcome=outcome)


def _stable_at(c: StepContext, session: SessionState) -> float | None:
    """When a session that came up is looked at; None: that moment is over."""
    connected = session.session.connected
    moment = None if connected is None else connected + c.tunnel.reconnect.stable_after
    return None if moment is None or moment <= c.now else moment


def _stop_deadline(c: StepContext, session: SessionState, event: ev.Tick) -> SessionStep:
    later = replace(session, deadline=c.now + KILL_INTERVAL_SECONDS)
    return SessionStep(later, (ev.Kill(c.tunnel.name, session.session.number),))


Handler = Callable[[StepContext, SessionState, Any], SessionStep]

TABLE: Mapping[tuple[Phase, type[ev.Event]], Handler] = MappingProxyType(
    {
        (Phase.STARTING, ev.Spawned): _spawned,
        (Phase.STARTING, ev.SpawnFailed): _spawn_failed,
        (Phase.STARTING, ev.ClientSaid): _said,
        (Phase.STARTING, ev.Kept): _kept,
        (Phase.STARTING, ev.Delayed): _delayed,
        (Phase.STARTING, ev.Answered): _answered,
        (Phase.STARTING, ev.Exited): _exited,
        (Phase.STARTING, ev.AddressConflict): _address_conflict,
        (Phase.STARTING, ev.Tick): _start_deadline,
        (Phase.UP, ev.ClientSaid): _said,
        (Phase.UP, ev.Kept): _kept,
        (Phase.UP, ev.Answered): _answered,
        (Phase.UP, ev.Delayed): _delayed,
        (Phase.UP, ev.Exited): _exited,
        (Phase.UP, ev.DeviceLost): _device_lost,
        (Phase.UP, ev.InterfaceRepaired): _interface_repaired,
        (Phase.UP, ev.SourceLost): _source_lost,
        (Phase.UP, ev.AddressConflict): _address_conflict,
        (Phase.UP, ev.PathMtu): _path_mtu,
        (Phase.UP, ev.Suspected): _suspected,
        (Phase.UP, ev.UplinkBack): _uplink_back,
        (Phase.UP, ev.Tick): _stable_deadline,
        (Phase.STOPPING, ev.ClientSaid): _said_while_stopping,
        (Phase.STOPPING, ev.Kept): _kept,
        (Phase.STOPPING, ev.Spawned): _spawned,
        (Phase.STOPPING, ev.SpawnFailed): _never_spawned,
        (Phase.STOPPING, ev.Exited): _exited_stopping,
        (Phase.STOPPING, ev.Tick): _stop_deadline,
    }
)
