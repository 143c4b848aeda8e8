"""How available a tunnel was: seconds by standing, outages and deaths in any stretch of time.

`reports.history.recorder` adds a mark for each transition, in order. All moments are seconds on one axis that
never jumps (monotonic time, which earlier runs of the daemon precede), so that a step of the clock neither
adds nor loses a second; stretches are half-open: [start, end).
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

from supervisor.core.session.retry import RETRY, Retry
from supervisor.core.state import TunnelState, Want, well
from tunnels.base import Reason
from tunnels.settings import Tunnel

LOST = "daemon-lost"  # the reason of what ended because the daemon did, without a word
ADOPTED = "adopted"  # a later daemon went on with a session of an earlier one

WINDOWS: Mapping[str, float] = MappingProxyType(
    {"1h": 3600.0, "24h": 86400.0, "7d": 7 * 86400.0, "30d": 30 * 86400.0}
)
KEPT = max(WINDOWS.values()) + 3600.0  # seconds of the past that a timeline remembers
_TRIM = 256  # marks that are forgotten at a time

_CLASSES = MappingProxyType({Retry.NOW: "asked", Retry.LOGIN: "login", Retry.NEVER: "permanent"})
_PROGRESS = (Reason.RETRY, Reason.CONNECTED, Reason.HEALTHY, Reason.DEGRADED, ADOPTED)
_NO_FAILURE = frozenset({*(r.value for r in RETRY if RETRY[r] is Retry.NOW), *_PROGRESS})
_BY_HAND = frozenset(
    {Reason.STARTED, Reason.STOPPED, Reason.RESTARTED, Reason.RECONFIGURED, Reason.INPUTS_CHANGED}
)


class Standing(enum.StrEnum):
    """What a tunnel was to those who need it."""

    UP = "up"  # proven to work
    DEGRADED = "degraded"  # works, but badly
    DOWN = "down"  # wanted, and not proven to work
    UNWATCHED = "unwatched"  # wanted, and no daemon ran
    STOPPED = "stopped"  # an operator had stopped it, or it was not configured


_ORDER = tuple(Standing)
_WORST_FIRST = (Standing.DOWN, Standing.UNWATCHED, Standing.DEGRADED, Standing.STOPPED, Standing.UP)
_AVAILABLE = (Standing.UP, Standing.DEGRADED)
_LACKING = (Standing.DOWN, Standing.UNWATCHED)
_LAST_AVAILABLE, _LAST_LACKING = (
    _ORDER.index(some[-1]) for some in (_AVAILABLE, _LACKING)
)  # which come first


def standing(tunnel: Tunnel, state: TunnelState) -> Standing:
    """What this state means. A tunnel that connects again and again while nothing passes is down, as for
    incidents.
    """
    if state.want is Want.DOWN:
        return Standing.UNWATCHED if state.reason is Reason.SHUTDOWN else Standing.STOPPED
    if not well(tunnel, state):
        return Standing.DOWN
    return Standing.UP if state.liveness.degraded is None else Standing.DEGRADED


def failed(reason: str) -> bool:
    """Does this word stand for something that went wrong, and not for a wish or for progress."""
    return reason not in _NO_FAILURE


def death_class(reason: str) -> str:
    """`asked`, `transient`, `login` or `permanent` as the retry policy has it; `daemon` for what died with
    the daemon.
    """
    try:
        return _CLASSES.get(RETRY[Reason(reason)], "transient")
    except ValueError:  # LOST, or a word of another version
        return "daemon" if reason == LOST else "transient"


Segment = tuple[float, float, Standing]  # from, to, and what was in between


def worst(segments: Sequence[Segment], start: float, end: float, slots: int) -> list[Standing | None]:
    """The time from `start` to `end` in so many equal parts, each with the worst that was in it; None:
    nothing is known.
    """
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
    """From this moment on a tunnel was in this standing, for this reason; `waits`: for a human."""

    at: float
    standing: Standing
    reason: str
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Outage:
    """A stretch without service. `planned`: nothing had failed, it was asked for; `by_hand`: it took a
    human, or one had a hand in it.
    """

    began: float
    ended: float | None  # None: it goes on
    reason: str  # of the first failure in it
    planned: bool
    by_hand: bool

    def told(self, mark: StandingChange) -> Outage:
        """The outage with what else happened in it."""
        by_hand = self.by_hand or mark.waits or (not self.planned and mark.reason in _BY_HAND)
        if self.planned and failed(mark.reason):
            return replace(self, reason=mark.reason, planned=False, by_hand=by_hand)
        return replace(self, by_hand=by_hand)

    def over(self, mark: StandingChange, at: float) -> Outage:
        """The outage with its end; one that ends because nobody wants the tunnel any more was not healed."""
        given_up = mark.standing is Standing.STOPPED and not self.planned
        return replace(self, ended=at, by_hand=self.by_hand or given_up)


@dataclass(frozen=True, slots=True)
class Availability:
    """One tunnel over one stretch of time. `outages`: those that reach into it, the planned ones too;
    `deaths`: sessions by reason.
    """

    start: float
    end: float
    seconds: Mapping[Standing, float]
    outages: tuple[Outage, ...]
    deaths: Mapping[str, int]

    @property
    def ratio(self) -> float | None:
        """Available part of the time in which the tunnel was wanted; None: it never was, or nothing is
        known.
        """
        wanted = self.available + sum(self.seconds[s] for s in _LACKING)
        return self.available / wanted if wanted > 0 else None

    @property
    def available(self) -> float:
        """Seconds in which traffic passed."""
        return sum(self.seconds[s] for s in _AVAILABLE)

    @property
    def failures(self) -> tuple[Outage, ...]:
        """The outages that nobody had asked for."""
        return tuple(outage for outage in self.outages if not outage.planned)

    @property
    def mttr(self) -> float | None:
        """Mean seconds from failure to repair, over the repairs in this stretch; None: there were none."""
        lengths = [o.ended - o.began for o in self.failures if o.ended is not None and o.ended < self.end]
        return sum(lengths) / len(lengths) if lengths else None

    @property
    def mtbf(self) -> float | None:
        """Mean available seconds between failures: available time per failure that began in this stretch;
        None: none did.
        """
        began = sum(outage.began >= self.start for outage in self.failures)
        return self.available / began if began else None

    @property
    def healed(self) -> int:
        """Failures that ended without a human."""
        return sum(outage.ended is not None and not outage.by_hand for outage in self.failures)

    @property
    def by_hand(self) -> int:
        """Failures that took a human, or wait for one."""
        return sum(outage.by_hand for outage in self.failures)


class Timeline:
    """What one tunnel was, as far back as `KEPT`. Any stretch costs two binary searches, however much
    happened in it.
    """

    def __init__(self) -> None:
        self._moments = array("d")  # when the standing changed
        self._standings = bytearray()  # into which one, by its place in `_ORDER`
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

    def add(self, mark: StandingChange) -> None:
        """What was true until then ends; a moment before the last one counts as the last one."""
        at = max(mark.at, self._moments[-1]) if self._moments else mark.at
        if mark.standing is not self.standing:
            totals = self._totals(at)
            self._moments.append(at)
            self._standings.append(_ORDER.index(mark.standing))
            for column, total in zip(self._sums, totals, strict=True):
                column.append(total)
        self._follow(mark, at)
        self._forget(at - KEPT)

    def died(self, at: float, reason: str) -> None:
        """A session ended; one that was asked to end is no death."""
        if failed(reason):
            self._deaths.append((at, reason))

    def seconds(self, start: float, end: float) -> dict[Standing, float]:
        """Seconds in each standing; the last one goes on for ever. What lies before the first mark is not
        known, and counts nowhere.
        """
        before, after = self._totals(start), self._totals(end)
        return {s: max(0.0, b - a) for s, a, b in zip(_ORDER, before, after, strict=True)}

    def over(self, start: float, end: float) -> Availability:
        """Everything about a stretch of time that ends at the last mark, or later."""
        known = (*self._outages, *(() if self._going_on is None else (self._going_on,)))
        outages = tuple(o for o in known if o.began < end and (o.ended is None or o.ended > start))
        deaths = Counter(reason for at, reason in self._deaths if start <= at < end)
        return Availability(start, end, self.seconds(start, end), outages, deaths)

    def ratios(self, lengths: Iterable[float], end: float) -> list[float | None]:
        """As `Availability.ratio` of the stretches of these lengths that end together; cheap, as metrics
        ask for it often.
        """
        found: list[float | None] = []
        most_available, most_lacking = self._balance(end)
        for length in lengths:
            before = self._balance(end - length)
            available, lacking = max(0.0, most_available - before[0]), max(0.0, most_lacking - before[1])
            found.append(available / (available + lacking) if available + lacking > 0.0 else None)
        return found

    def segments(self, start: float, end: float) -> list[Segment]:
        """What was when: stretches that follow each other without a gap, from the first mark or `start` to
        `end`.
        """
        first = max(0, bisect_right(self._moments, start) - 1)
        bounds = [*self._moments[first : bisect_left(self._moments, end)], end]
        found = (_ORDER[code] for code in self._standings[first:])
        return [
            (max(a, start), b, what)
            for a, b, what in zip(bounds, bounds[1:], found, strict=False)
            if b > max(a, start)
        ]

    def _balance(self, moment: float) -> tuple[float, float]:
        """Of `_totals`, how long it was available and how long it was lacking."""
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

    def _follow(self, mark: StandingChange, at: float) -> None:
        outage, self._going_on = self._going_on, None
        if mark.standing in _LACKING:
            self._going_on = (
                Outage(at, None, mark.reason, not failed(mark.reason), mark.waits)
                if outage is None
                else outage.told(mark)
            )
        elif outage is not None:
            self._outages.append(outage.over(mark, at))

    def _forget(self, before: float) -> None:
        while self._deaths and self._deaths[0][0] < before:
            self._deaths.popleft()
        while self._outages and (self._outages[0].ended or 0.0) < before:
            self._outages.popleft()
        if len(self._moments) > _TRIM and self._moments[_TRIM] < before:
            del self._moments[:_TRIM], self._standings[:_TRIM]
            for column in self._sums:
                del column[:_TRIM]
