"""What a later daemon resumes from: the record of each tunnel, and what it means when it is found again.

The engine hands out a `TunnelRecord` whenever one changes, the app keeps them where no crash reaches them
(`app.stores.state_store`), and the next daemon's engine reads them before its first configuration. All
moments are monotonic seconds: a record means nothing after a boot of the host.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from supervisor.core.events import Asked, Event, Exited, InputsChanged, Terminate
from supervisor.core.network.failover import Carriers, Rivals, prevailed
from supervisor.core.session.liveness import forgotten
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Drain, Idle, Known, Phase, Session, SessionState, TunnelState, Want
from tunnels.base import AnyKind, Reason, slot_name
from tunnels.settings import Tunnel

_MOST_REFUSALS = 1000  # a larger count in a record is damage
_LONGEST_PAUSE_SECONDS = 3600.0  # that a login waits because of a record that is not understood


@dataclass(frozen=True, slots=True)
class TunnelRecord:
    """One tunnel."""

    state: TunnelState
    lane: int
    carries: tuple[Rivals, ...] = ()  # it carries what these reach, itself one of them


@dataclass(frozen=True, slots=True)
class Spent:
    """Refused logins of a tunnel of which nothing else is known."""

    refusals: int
    login_after: float  # monotonic seconds


@dataclass(frozen=True, slots=True)
class PreviousRun:
    """All tunnels that an earlier daemon had, and what became of them since."""

    records: Mapping[str, TunnelRecord] = field(default_factory=dict)
    living: Container[tuple[str, int]] = ()  # tunnels and sessions whose clients still run
    kept: Container[str] = ()  # slots: what lets their next session begin without a login is still there
    outdated: Container[str] = ()  # tunnels whose secrets or files have changed
    ends_by: float | None = None  # all of it was draining; by then it is over
    spent: Mapping[str, Spent] = field(
        default_factory=dict
    )  # by tunnel: of records that could not be understood

    @property
    def lanes(self) -> dict[str, int]:
        """The lane that each had."""
        return {name: record.lane for name, record in self.records.items()}

    @property
    def carries(self) -> dict[Rivals, str]:
        """Which one carried what several reach."""
        return {rivals: name for name, record in self.records.items() for rivals in record.carries}


@dataclass(frozen=True, slots=True)
class Revival:
    """How a tunnel begins with a new daemon: its state, what is said to its client, and what is news to
    it.
    """

    state: TunnelState
    orders: tuple[Terminate, ...] = ()
    events: tuple[Event, ...] = ()


def recorded(
    names: Iterable[str],
    members: Mapping[str, tuple[Tunnel, TunnelState]],
    lanes: Mapping[str, int],
    carriers: Carriers,
) -> dict[str, TunnelRecord | None]:
    """The records of these tunnels; None: there is no such tunnel."""
    won: dict[str, list[Rivals]] = {}
    for rivals, name in prevailed(carriers).items():
        won.setdefault(name, []).append(rivals)
    return {
        name: TunnelRecord(members[name][1], lanes[name], tuple(won.get(name, ())))
        if name in members
        else None
        for name in names
    }


def found(tunnels: Mapping[str, Tunnel], memory: PreviousRun, now: float) -> Snapshot:
    """All tunnels before anything was decided: those whose clients live as they were, nothing else is up."""
    return Snapshot({name: (tunnel, _found(name, memory)) for name, tunnel in tunnels.items()}, now)


def _found(name: str, memory: PreviousRun) -> TunnelState:
    record = memory.records.get(name)
    if record is None:
        return TunnelState()
    state, active = record.state, record.state.active
    if state.standby is not None and not _lives(name, state.standby, memory):
        state = replace(state, standby=None)
    if active is None or _lives(name, active, memory):
        return state
    return replace(state, active=None, last=active.session, idle=Idle(Phase.BACKOFF))


def _lives(name: str, session: SessionState, memory: PreviousRun) -> bool:
    return (name, session.session.number) in memory.living


def revive(name: str, memory: PreviousRun, kind: AnyKind, now: float, *, held: bool, anew: bool) -> Revival:
    """The beginning of a configured tunnel. `held`: an operator has stopped it; `anew`: its client must
    start with other settings.
    """
    record = memory.records.get(name)
    if record is None or _is_over(record.state):
        return _begun(name, memory, record, now, held=held)
    state = _resumed(name, record.state, memory, kind, now, held=held)
    # the daemon before us may have crashed before its order reached the client
    orders = (
        Terminate(name, each.session.number, not each.resumable)
        for each in state.sessions
        if each.phase is Phase.STOPPING and _lives(name, each, memory)
    )
    ends = (Exited(name, each.session.number) for each in state.sessions if not _lives(name, each, memory))
    return Revival(state, tuple(orders), (*_news(name, state, memory, held=held, anew=anew), *ends))


def _is_over(state: TunnelState) -> bool:
    return state.phase is Phase.STOPPED


def _begun(name: str, memory: PreviousRun, record: TunnelRecord | None, now: float, *, held: bool) -> Revival:
    """A tunnel that is new, or had been stopped."""
    number, known = (1, Known()) if record is None else (record.state.next_number, record.state.known)
    down = held or memory.ends_by is not None
    fresh = TunnelState(
        want=Want.DOWN if down else Want.UP,
        idle=Idle(since=now),
        well_since=now,
        last=Session(number - 1),
        next_number=number,
        known=known,
    )
    if not down and record is None and (spent := memory.spent.get(name)) is not None:
        return Revival(_wary(fresh, spent, now))
    return Revival(fresh, events=() if down else (Asked(name, reason=Reason.CONFIGURED),))


def spent_in(raw: Any) -> Spent | None:
    """The refused logins in a stored record (of any format) that is not understood; None: it names none."""
    try:
        state = raw["record"]["state"]
        retry = state.get("retry", state)
        refusals, login_after = retry["refusals"], retry["login_after"]
    except (AttributeError, KeyError, TypeError, IndexError):
        return None
    if type(refusals) is not int or not 0 < refusals < _MOST_REFUSALS:
        return None
    return Spent(refusals, float(login_after) if isinstance(login_after, int | float) else 0.0)


def _wary(state: TunnelState, spent: Spent, now: float) -> TunnelState:
    """It begins as after a refused login: an account is not tried once more only because we have forgotten
    that it was refused.
    """
    after = min(spent.login_after, now + _LONGEST_PAUSE_SECONDS)
    retry = replace(state.retry, refusals=spent.refusals, login_after=after)
    return replace(state, retry=retry, idle=Idle(Phase.BACKOFF, Reason.AUTH, now, max(now, after)))


def revive_nothing(name: str, memory: PreviousRun, now: float, *, held: bool) -> Revival:
    """The beginning where nobody can resume from the record: its clients end, its numbers go on, and
    refused logins count.
    """
    record = memory.records.get(name)
    begun = _begun(name, PreviousRun(ends_by=memory.ends_by), None, now, held=held)
    if record is None:
        return begun
    known, number = record.state.retry, record.state.next_number
    retry = replace(begun.state.retry, refusals=known.refusals, login_after=known.login_after)
    state = replace(begun.state, last=Session(number - 1), next_number=number, retry=retry)
    orders = (
        Terminate(name, each.session.number, leave=True)
        for each in record.state.sessions
        if _lives(name, each, memory)
    )
    return Revival(state, tuple(orders), begun.events)


def _news(name: str, state: TunnelState, memory: PreviousRun, *, held: bool, anew: bool) -> Iterator[Event]:
    """What was asked for, and what has changed, while no daemon ran."""
    if memory.ends_by is not None:
        yield Asked(name, reason=Reason.SHUTDOWN, until=memory.ends_by)
    elif held != (state.want is Want.DOWN) and not (held and state.drain is not None):
        yield Asked(name, reason=Reason.STOPPED if held else Reason.CONFIGURED)
    elif anew and not held:
        yield Asked(name, reason=Reason.RECONFIGURED)
    if name in memory.outdated:
        yield InputsChanged(name)


def _resumed(
    name: str, state: TunnelState, memory: PreviousRun, kind: AnyKind, now: float, *, held: bool
) -> TunnelState:
    """The state with which this daemon goes on."""
    active, standby = (
        None if each is None else _session_resumed(name, each, memory, kind, now)
        for each in (state.active, state.standby)
    )
    kept = state.retry.resumable and slot_name(name, state.last.slot) in memory.kept
    return replace(
        state,
        active=active,
        standby=standby,
        retry=replace(state.retry, resumable=kept),
        drain=_drain(state.drain, memory, held=held),
    )


def _session_resumed(
    name: str, session: SessionState, memory: PreviousRun, kind: AnyKind, now: float
) -> SessionState:
    """A client that begins or ends gets its whole time once more; one that asks something will ask again."""
    deadline = session.deadline
    if session.phase is Phase.STARTING:
        deadline = now + kind.start_timeout
    elif session.phase is Phase.STOPPING:
        deadline = now + kind.stop_timeout
    return replace(
        session,
        resumable=session.resumable and slot_name(name, session.session.slot) in memory.kept,
        asking=None,
        liveness=forgotten(session.liveness),
        deadline=deadline,
    )


def _drain(drain: Drain | None, memory: PreviousRun, *, held: bool) -> Drain | None:
    """That of all tunnels may have been called off; one that an operator had stopped before goes on with
    its own.
    """
    if drain is None or drain.reason is not Reason.SHUTDOWN or memory.ends_by is not None:
        return drain
    return Drain(Reason.STOPPED, drain.until, not_before=drain.not_before) if held else None
