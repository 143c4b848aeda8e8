"""The geometry of the status page's charts (templates/charts.html), and each chart in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from supervisor.core.humanize import duration

HEIGHT = 20  # of each chart, in units of its viewBox
# Of the bars of a day: the heights differ, because colours alone are not accessible.
_BAR_HEIGHTS = {"up": 20, "degraded": 14, "down": 20, "unwatched": 8, "stopped": 4}
_DAY_SECONDS = 86400.0
_TOLD = 5  # stretches of trouble that a description names


class Bar(NamedTuple):
    """A rectangle, its class being what the tunnel was (up, down ...)."""

    kind: str
    x: int
    y: int
    width: int
    height: int


def bars(slots: Sequence[str | None]) -> list[Bar]:
    """What a tunnel was over a day in equal slots, oldest first; nothing where it is not known."""
    heights = _BAR_HEIGHTS
    return [
        Bar(what, start, HEIGHT - heights.get(what, HEIGHT), length, heights.get(what, HEIGHT))
        for what, start, length in _runs(slots)
        if what is not None
    ]


def day_in_words(slots: Sequence[str | None]) -> str:
    """The same in words, the latest trouble first."""
    slot_seconds = _DAY_SECONDS / max(1, len(slots))
    known = [what for what in slots if what is not None]
    if not known:
        return "Last 24 hours: nothing is known yet"
    trouble = [run for run in _runs(slots) if run[0] not in (None, "up")]
    if not trouble:
        return f"Last 24 hours: up in all {duration(len(known) * slot_seconds)} that are known"
    told = [
        f"{what} at times in {duration(length * slot_seconds)}, {_ago(len(slots) - start - length, slot_seconds)}"
        for what, start, length in trouble
    ]
    rest = f"; and {len(told) - _TOLD} times before" if len(told) > _TOLD else ""
    return f"Last 24 hours: {'; '.join(reversed(told[-_TOLD:]))}{rest}"


def curves(rtts: Sequence[float | None]) -> list[str]:
    """Round trip times in seconds, oldest first, as `points` of polylines: one for each stretch without a
    missing answer.
    """
    top = max([*(rtt for rtt in rtts if rtt is not None), 0.001]) * 1.1
    return [" ".join(points) for points in _curves(rtts, top)]


def misses(rtts: Sequence[float | None]) -> list[int]:
    """The places of missing answers."""
    return [place for place, rtt in enumerate(rtts) if rtt is None]


def latency_in_words(rtts: Sequence[float | None], seconds: float) -> str:
    """The range of the times of the last `seconds`."""
    answered = [rtt for rtt in rtts if rtt is not None]
    known = f"{milliseconds(min(answered))} to {milliseconds(max(answered))}" if answered else "no answer"
    return f"Latency over {duration(seconds)}: {known}"


def milliseconds(seconds: float) -> str:
    """A round trip time, such as `12 ms` or `0.8 ms`."""
    value = seconds * 1000
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"


def _runs(slots: Sequence[str | None]) -> Iterator[tuple[str | None, int, int]]:
    """Equal slots in a row: what, the first one's place, and how many."""
    start = 0
    for what, group in groupby(slots):
        length = len(list(group))
        yield what, start, length
        start += length


def _curves(rtts: Sequence[float | None], top: float) -> Iterator[list[str]]:
    for missing, group in groupby(enumerate(rtts), lambda pair: pair[1] is None):
        if not missing:
            points = [f"{x},{HEIGHT - (HEIGHT - 1) * (rtt or 0.0) / top:.1f}" for x, rtt in group]
            yield points if len(points) > 1 else [points[0], points[0]]


def _ago(slots: int, slot_seconds: float) -> str:
    return "until now" if slots == 0 else f"{duration(slots * slot_seconds)} ago"
