"""The next deadline of each tunnel, kept when the tunnel's state changes, so that a wake-up need not look at
every tunnel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field

from supervisor.core import events as ev
from supervisor.core.state import SessionState, TunnelState

_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Moments in monotonic seconds."""

    moments: Mapping[str, float] = field(default_factory=dict)  # by tunnel; those without one are left out
    first: float = _NEVER  # the earliest of them

    def after(self, name: str, state: TunnelState | None) -> Deadlines:
        """With the deadline of this tunnel in its new state; None: the tunnel is gone."""
        before = self.moments.get(name, _NEVER)
        moment = _NEVER if state is None else min(_of(state), default=_NEVER)
        if moment == before:
            return self
        moments = {**self.moments, name: moment}
        if moment == _NEVER:
            del moments[name]
        first = min(moments.values(), default=_NEVER) if before == self.first else min(self.first, moment)
        return Deadlines(moments, first)

    def due(self, now: float) -> frozenset[str]:
        """The tunnels of which a deadline is reached."""
        if now < self.first:
            return frozenset()
        return frozenset([name for name, moment in self.moments.items() if moment <= now])

    def next(self, postponed: Set[str] = frozenset()) -> float | None:
        """The earliest one of those tunnels that are not `postponed`; None: they have none."""
        if not postponed:
            return None if self.first == _NEVER else self.first
        return min((at for name, at in self.moments.items() if name not in postponed), default=None)


def _of(state: TunnelState) -> Iterator[float]:
    for one in (state, state.standby):
        if one is not None:
            if one.deadline is not None:
                yield one.deadline
            if one.drain is not None:
                yield one.drain.due
    if state.planned is not None:
        yield state.planned


def reached(name: str, state: TunnelState, now: float) -> Iterator[ev.Event]:
    """The events of this tunnel's deadlines that are reached."""
    if state.standby is not None:
        number = state.standby.session.number
        yield from _reached(name, state.standby, now, number, number)
    yield from _reached(name, state, now, state.session.number, None)
    if state.planned is not None and state.planned <= now:
        yield ev.ReconnectDue(name)


def _reached(
    name: str, one: TunnelState | SessionState, now: float, number: int, about: int | None
) -> Iterator[ev.Event]:
    if one.deadline is not None and one.deadline <= now:
        yield ev.Tick(name, number)
    if one.drain is not None and one.drain.due <= now:
        yield ev.Asked(name, about, one.drain.reason)
