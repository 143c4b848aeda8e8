"""What a later daemon goes on from: what is remembered of each tunnel, and what it means when it is found
again.

The engine hands out a `TunnelRecord` whenever one changes, the app keeps them where no crash reaches them
(`app.stores.state_store`), and the next daemon's engine takes them up before its first configuration. All
moments are monotonic seconds: a record means nothing after a boot of the host.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from supervisor.core.events import Asked, Event, Exited, InputsChanged, Terminate
from supervisor.core.network.failover import Carriers, Rivals, prevailed
from supervisor.core.session.context import KindLimits
from supervisor.core.state import Drain, Known, Phase, Session, Snapshot, TunnelState, Want
from tunnels.base import Reason, slot_name
from tunnels.settings import Tunnel

_MOST_REFUSALS = 1000  # more than these nobody counts
_LONGEST_PAUSE = 3600.0  # seconds that a login waits for what a record says that is not understood


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
    names: Iterable[str], states: Mapping[str, TunnelState], lanes: Mapping[str, int], carriers: Carriers
) -> dict[str, TunnelRecord | None]:
    """The records of these tunnels; None: there is no such tunnel."""
    won: dict[str, list[Rivals]] = {}
    for rivals, name in prevailed(carriers).items():
        won.setdefault(name, []).append(rivals)
    return {
        name: TunnelRecord(states[name], lanes[name], tuple(won.get(name, ()))) if name in states else None
        for name in names
    }


def found(tunnels: Mapping[str, Tunnel], memory: PreviousRun, now: float) -> Snapshot:
    """All tunnels before anything was decided: those whose clients live as they were, nothing else is up."""
    return Snapshot({name: (tunnel, _found(name, memory)) for name, tunnel in tunnels.items()}, now)


def _found(name: str, memory: PreviousRun) -> TunnelState:
    record = memory.records.get(name)
    if record is None:
        return TunnelState()
    state, other = record.state, record.state.other
    if other is not None and not _lives(name, other, memory):
        state = replace(state, other=None)
    return state if _lives(name, state, memory) or not state.running else replace(state, phase=Phase.BACKOFF)


def _lives(name: str, state: TunnelState, memory: PreviousRun) -> bool:
    return state.running and (name, state.session.number) in memory.living


def revive(
    name: str, memory: PreviousRun, limits: KindLimits, now: float, *, held: bool, anew: bool
) -> Revival:
    """The beginning of a configured tunnel. `held`: an operator has stopped it; `anew`: its client must
    start with other settings.
    """
    record = memory.records.get(name)
    if record is None or record.state.phase is Phase.STOPPED:
        number, known = (0, Known()) if record is None else (record.state.numbered, record.state.known)
        down = held or memory.ends_by is not None
        fresh = TunnelState(
            want=Want.DOWN if down else Want.UP,
            since=now,
            well_since=now,
            session=Session(number),
            numbered=number,
            known=known,
        )
        if not down and record is None and (spent := memory.spent.get(name)) is not None:
            return Revival(_wary(fresh, spent, now))
        return Revival(fresh, events=() if down else (Asked(name, reason=Reason.CONFIGURED),))
    state = _taken_up(name, record.state, memory, limits, now, held=held)
    stopping = (side for side in state.sides if side.phase is Phase.STOPPING and _lives(name, side, memory))
    orders = (
        Terminate(name, side.session.number, not side.kept) for side in stopping
    )  # the first one may not have reached it
    lost = (side.session.number for side in state.sides if side.running and not _lives(name, side, memory))
    ends = (Exited(name, number) for number in lost)
    return Revival(state, tuple(orders), (*_news(name, state, memory, held=held, anew=anew), *ends))


def spent_in(raw: Any) -> Spent | None:
    """The refused logins in a stored record that is not understood; None: none are told there."""
    try:
        state = raw["record"]["state"]
        refusals, login_after = state["refusals"], state["login_after"]
    except (KeyError, TypeError, IndexError):
        return None
    counted = type(refusals) is int and 0 < refusals < _MOST_REFUSALS
    return (
        Spent(refusals, float(login_after) if isinstance(login_after, int | float) else 0.0)
        if counted
        else None
    )


def _wary(state: TunnelState, spent: Spent, now: float) -> TunnelState:
    """It begins as after a refused login: an account is not tried once more only because we have forgotten
    that it was refused.
    """
    after = min(spent.login_after, now + _LONGEST_PAUSE)
    return replace(
        state,
        phase=Phase.BACKOFF,
        reason=Reason.AUTH,
        refusals=spent.refusals,
        login_after=after,
        deadline=max(now, after),
    )


def revive_nothing(name: str, memory: PreviousRun, limits: KindLimits, now: float, *, held: bool) -> Revival:
    """The beginning where nobody can go on from the record: its clients end, its numbers go on, and
    refused logins count.
    """
    record = memory.records.get(name)
    begun = revive(name, PreviousRun(ends_by=memory.ends_by), limits, now, held=held, anew=False)
    if record is None:
        return begun
    number = max(record.state.numbered, *(side.session.number for side in record.state.sides))
    state = replace(
        begun.state,
        session=Session(number),
        numbered=number,
        refusals=record.state.refusals,
        login_after=record.state.login_after,
    )
    sides = (side for side in record.state.sides if _lives(name, side, memory))
    return Revival(
        state, tuple(Terminate(name, side.session.number, leave=True) for side in sides), begun.events
    )


def _news(name: str, state: TunnelState, memory: PreviousRun, *, held: bool, anew: bool) -> Iterator[Event]:
    """What was wished, and what has changed, while nobody listened."""
    if memory.ends_by is not None:
        yield Asked(name, reason=Reason.SHUTDOWN, until=memory.ends_by)
    elif held != (state.want is Want.DOWN) and not (held and state.drain is not None):
        yield Asked(name, reason=Reason.STOPPED if held else Reason.CONFIGURED)
    elif anew and not held:
        yield Asked(name, reason=Reason.RECONFIGURED)
    if name in memory.outdated:
        yield InputsChanged(name)


def _taken_up(
    name: str, state: TunnelState, memory: PreviousRun, limits: KindLimits, now: float, *, held: bool
) -> TunnelState:
    """A client that begins or ends gets its whole time once more; one that asks something will ask again."""
    deadline = state.deadline
    if state.phase is Phase.STARTING:
        deadline = now + limits.start
    elif state.phase is Phase.STOPPING:
        deadline = now + limits.stop
    return replace(
        state,
        kept=state.kept and slot_name(name, state.session.slot) in memory.kept,
        asking=None,
        misses=0,
        silence=0,
        unheard=0,
        deadline=deadline,
        drain=_drain(state.drain, memory, held=held),
        other=None if state.other is None else _taken_up(name, state.other, memory, limits, now, held=held),
    )


def _drain(drain: Drain | None, memory: PreviousRun, *, held: bool) -> Drain | None:
    """That of all tunnels may have been called off; one that an operator had stopped before goes on with
    its own.
    """
    if drain is None or drain.reason is not Reason.SHUTDOWN or memory.ends_by is not None:
        return drain
    return Drain(Reason.STOPPED, drain.until) if held else None
