"""Availability of a tunnel: seconds by standing, outages, and ended sessions in any interval.

`reports.history.recorder` adds a change for each transition, in order. All times are seconds on one monotonic
axis, on which earlier runs of the daemon come first, so that a step of the wall clock neither adds nor loses
a second. Intervals are half-open: [start, end).
"""

from __future__ import annotations

import enum
import math
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from supervisor.core.session.reasons import is_failure
from supervisor.core.session.retry import POLICIES, Retry
from supervisor.core.state import TunnelState, Want, well
from tunnels.base import Reason
from tunnels.settings import Tunnel

LOST = "daemon-lost"  # the reason of sessions that ended with a daemon that was killed
NOT_MONITORED = "not-monitored"  # the whole host stood still, and this daemon with it
ADOPTED = "adopted"  # a daemon has adopted the session of an earlier one

WINDOWS: Mapping[str, float] = MappingProxyType(
    {"1h": 3600.0, "24h": 86400.0, "7d": 7 * 86400.0, "30d": 30 * 86400.0}
)
# A ratio says something once this much was observed, or half of its window: a first start that took minutes
# is no bad day.
MIN_OBSERVED_SECONDS = 6 * 3600.0
KEPT = max(WINDOWS.values()) + 3600.0  # seconds of the past that a timeline remembers
_ROUNDING_SECONDS = 0.001  # of sums of many stretches
_TRIM = 256  # marks that are forgotten at a time

_CLASSES = MappingProxyType(
    {Retry.NOW: "asked", Retry.LOGIN: "login", Retry.NEVER: "permanent", Retry.CURABLE: "permanent"}
)
_BY_HAND = frozenset(
    {Reason.STARTED, Reason.STOPPED, Reason.RESTARTED, Reason.RECONFIGURED, Reason.INPUTS_CHANGED}
)


class Standing(enum.StrEnum):
    """What a tunnel was to its users."""

    UP = "up"  # proven to work
    DEGRADED = "degraded"  # works, but badly
    DOWN = "down"  # wanted, and not proven to work
    UNWATCHED = "unwatched"  # wanted, and no daemon ran, or the whole host stood still
    STOPPED = "stopped"  # an operator had stopped it, or it was not configured


_ORDER = tuple(Standing)
_WORST_FIRST = (Standing.DOWN, Standing.UNWATCHED, Standing.DEGRADED, Standing.STOPPED, Standing.UP)
_AVAILABLE = (Standing.UP, Standing.DEGRADED)
_LACKING = (Standing.DOWN, Standing.UNWATCHED)
_LAST_AVAILABLE, _LAST_LACKING = (
    _ORDER.index(some[-1]) for some in (_AVAILABLE, _LACKING)
)  # which come first


def standing(tunnel: Tunnel, state: TunnelState) -> Standing:
    """The standing of a tunnel in this state. One that connects again and again while nothing passes is down,
    as it is for incidents.
    """
    if state.want is Want.DOWN:
        return Standing.UNWATCHED if state.reason is Reason.SHUTDOWN else Standing.STOPPED
    if not well(tunnel, state):
        return Standing.DOWN
    return Standing.UP if state.liveness.degraded is None else Standing.DEGRADED


def failed(reason: str) -> bool:
    """The reason is a failure, neither an order nor progress."""
    return reason != ADOPTED and is_failure(reason)


def death_class(reason: str) -> str:
    """`asked`, `transient`, `login` or `permanent`, as the retry policy has it; `daemon` for sessions that
    ended with a daemon that was killed.
    """
    try:
        found = _CLASSES.get(POLICIES[Reason(reason)].retry, "transient")
        return "transient" if found == "asked" and failed(reason) else found
    except ValueError:  # LOST, or a reason of another version
        return "daemon" if reason == LOST else "transient"


Segment = tuple[float, float, Standing]  # start, end, standing in between


def worst(segments: Sequence[Segment], start: float, end: float, slots: int) -> list[Standing | None]:
    """The worst standing in each of `slots` equal parts of an interval; None: not known."""
    found: list[Standing | None] = [None] * slots
    width = (end - start) / slots
    for begin, until, what in segments:
        first, last = max(0, int((begin - start) / width)), min(slots, math.ceil((until - start) / width))
        for slot in range(first, last):
            known = found[slot]
            found[slot] = what if known is None else min(known, what, key=_WORST_FIRST.index)
    return found


@dataclass(frozen=True, slots=True)
class StandingChange:
    """From `at` on a tunnel was in this standing; `waits`: for a person."""

    at: float
    standing: Standing
    reason: str
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Outage:
    """An interval without service. `planned`: it was ordered, nothing had failed; `by_hand`: a person ended
    it or took part.
    """

    began: float
    ended: float | None  # None: it has not ended
    reason: str  # of the first failure in it
    planned: bool
    by_hand: bool

    def with_change(self, change: StandingChange) -> Outage:
        """The outage after a change within it."""
        by_hand = self.by_hand or change.waits or (not self.planned and change.reason in _BY_HAND)
        if self.planned and failed(change.reason):
            return replace(self, reason=change.reason, planned=False, by_hand=by_hand)
        return replace(self, by_hand=by_hand)

    def closed(self, change: StandingChange, at: float) -> Outage:
        """The outage after the change that ends it. If that stops the tunnel, a person gave up."""
        given_up = change.standing is Standing.STOPPED and not self.planned
        return replace(self, ended=at, by_hand=self.by_hand or given_up)


@dataclass(frozen=True, slots=True)
class Availability:
    """One tunnel over one interval. `outages`: that overlap it, planned ones included; `deaths`: failed
    sessions by reason.
    """

    start: float
    end: float
    seconds: Mapping[Standing, float]
    outages: tuple[Outage, ...]
    deaths: Mapping[str, int]

    @property
    def ratio(self) -> float | None:
        """Available part of the time in which the tunnel was wanted; None: it never was, or nothing
        is known.
        """
        return self.available / self.wanted if self.wanted > 0 else None

    @property
    def wanted(self) -> float:
        """Seconds in which the tunnel was wanted, as far as anything is known."""
        return self.available + sum(self.seconds[s] for s in _LACKING)

    @property
    def enough(self) -> bool:
        """Whether it was observed for long enough that the ratio says something."""
        return _enough(self.wanted, self.end - self.start, MIN_OBSERVED_SECONDS)

    @property
    def since(self) -> float | None:
        """Since when anything is known; None: since before the interval."""
        known = sum(self.seconds.values())
        return self.end - known if known < self.end - self.start - _ROUNDING_SECONDS else None

    @property
    def available(self) -> float:
        """Seconds in which traffic passed."""
        return sum(self.seconds[s] for s in _AVAILABLE)

    @property
    def failures(self) -> tuple[Outage, ...]:
        """The outages that were not planned."""
        return tuple(outage for outage in self.outages if not outage.planned)

    @property
    def mttr(self) -> float | None:
        """Mean seconds from failure to repair, over the repairs in this interval; None: there were none."""
        lengths = [o.ended - o.began for o in self.failures if o.ended is not None and o.ended < self.end]
        return sum(lengths) / len(lengths) if lengths else None

    @property
    def mtbf(self) -> float | None:
        """Mean time between failures: available seconds per failure that began in this interval; None: none
        did.
        """
        began = sum(outage.began >= self.start for outage in self.failures)
        return self.available / began if began else None

    @property
    def healed(self) -> int:
        """Failures that ended without a person."""
        return sum(outage.ended is not None and not outage.by_hand for outage in self.failures)

    @property
    def by_hand(self) -> int:
        """Failures that took a person, or wait for one."""
        return sum(outage.by_hand for outage in self.failures)


def _enough(observed: float, length: float, at_least: float) -> bool:
    return observed > 0.0 and observed >= min(length / 2, at_least)


class Timeline:
    """The standings of one tunnel for the last `KEPT` seconds. Sums over an interval take two binary
    searches, however many changes it contains.
    """

    def __init__(self) -> None:
        self._moments = array("d")  # of the changes
        self._standings = bytearray()  # after each change, as index into `_ORDER`
        self._sums = tuple(array("d") for _ in _ORDER)  # seconds in each standing before that
        self._outages: deque[Outage] = deque()
        self._going_on: Outage | None = None
        self._deaths: deque[tuple[float, str]] = deque()

    @property
    def change_count(self) -> int:
        """Changes of standing that are remembered."""
        return len(self._moments)

    @property
    def standing(self) -> Standing | None:
        """The last one; None: nothing is known."""
        return _ORDER[self._standings[-1]] if self._standings else None

    def add(self, change: StandingChange) -> None:
        """Append a change; one that lies before the last one counts as simultaneous."""
        at = max(change.at, self._moments[-1]) if self._moments else change.at
        if change.standing is not self.standing:
            totals = self._totals(at)
            self._moments.append(at)
            self._standings.append(_ORDER.index(change.standing))
            for column, total in zip(self._sums, totals, strict=True):
                column.append(total)
        self._follow(change, at)
        self._forget(at - KEPT)

    def died(self, at: float, reason: str) -> None:
        """Count a session that ended, unless it was told to."""
        if failed(reason):
            self._deaths.append((at, reason))

    def seconds(self, start: float, end: float) -> dict[Standing, float]:
        """Seconds in each standing; the last one lasts for ever. Time before the first change
        counts nowhere.
        """
        before, after = self._totals(start), self._totals(end)
        return {s: max(0.0, b - a) for s, a, b in zip(_ORDER, before, after, strict=True)}

    def over(self, start: float, end: float) -> Availability:
        """Everything about an interval that ends at the last change or later."""
        known = (*self._outages, *(() if self._going_on is None else (self._going_on,)))
        outages = tuple(o for o in known if o.began < end and (o.ended is None or o.ended > start))
        deaths = Counter(reason for at, reason in self._deaths if start <= at < end)
        return Availability(start, end, self.seconds(start, end), outages, deaths)

    def ratios(
        self, lengths: Iterable[float], end: float, at_least: float = MIN_OBSERVED_SECONDS
    ) -> list[float | None]:
        """`Availability.ratio` of intervals of these lengths that all end at `end`; cheap enough for each
        scrape. None also while the tunnel was wanted for less than `at_least` seconds, or half of the
        interval.
        """
        found: list[float | None] = []
        most_available, most_lacking = self._balance(end)
        for length in lengths:
            before = self._balance(end - length)
            available, lacking = max(0.0, most_available - before[0]), max(0.0, most_lacking - before[1])
            observed = available + lacking
            found.append(available / observed if _enough(observed, length, at_least) else None)
        return found

    def segments(self, start: float, end: float) -> list[Segment]:
        """Consecutive segments from `start`, or from the first change if that is later, to `end`."""
        first = max(0, bisect_right(self._moments, start) - 1)
        bounds = [*self._moments[first : bisect_left(self._moments, end)], end]
        found = (_ORDER[code] for code in self._standings[first:])
        return [
            (max(a, start), b, what)
            for a, b, what in zip(bounds, bounds[1:], found, strict=False)
            if b > max(a, start)
        ]

    def _balance(self, moment: float) -> tuple[float, float]:
        """Available and lacking seconds up to a moment: `_totals` in two sums."""
        up, degraded, down, unwatched, _ = self._sums
        place = bisect_right(self._moments, moment) - 1
        if place < 0:
            return (up[0] + degraded[0], down[0] + unwatched[0]) if up else (0.0, 0.0)
        available, lacking = up[place] + degraded[place], down[place] + unwatched[place]
        since, code = moment - self._moments[place], self._standings[place]
        if code <= _LAST_AVAILABLE:
            return available + since, lacking
        return available, lacking + since if code <= _LAST_LACKING else lacking

    def _totals(self, moment: float) -> list[float]:
        place = bisect_right(self._moments, moment) - 1
        if place < 0:
            return [column[0] if column else 0.0 for column in self._sums]
        totals = [column[place] for column in self._sums]
        totals[self._standings[place]] += moment - self._moments[place]
        return totals

    def _follow(self, change: StandingChange, at: float) -> None:
        outage, self._going_on = self._going_on, None
        if change.standing in _LACKING:
            self._going_on = (
                Outage(at, None, change.reason, not failed(change.reason), change.waits)
                if outage is None
                else outage.with_change(change)
            )
        elif outage is not None:
            self._outages.append(outage.closed(change, at))

    def _forget(self, before: float) -> None:
        while self._deaths and self._deaths[0][0] < before:
            self._deaths.popleft()
        while self._outages and (self._outages[0].ended or 0.0) < before:
            self._outages.popleft()
        if len(self._moments) > _TRIM and self._moments[_TRIM] < before:
            del self._moments[:_TRIM], self._standings[:_TRIM]
            for column in self._sums:
                del column[:_TRIM]
