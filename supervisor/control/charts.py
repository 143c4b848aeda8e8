"""Small pictures for the status page, as SVG that its style sheet colours; each says in words what it
shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby

from supervisor.core.humanize import lasting

_HEIGHTS = {
    "up": 20,
    "degraded": 14,
    "down": 20,
    "unwatched": 8,
    "stopped": 4,
}  # of 20: told apart without colours too
_DAY = 86400.0
_SPARK = 20.0  # height of the curve's field


def strip(slots: Sequence[str | None]) -> str:
    """What a tunnel was over the last day, in equal parts, oldest first."""
    bars = "".join(
        f'<rect class="{escape(what)}" x="{start}" y="{20 - _HEIGHTS.get(what, 20)}" width="{length}" '
        f'height="{_HEIGHTS.get(what, 20)}"/>'
        for what, start, length in _runs(slots)
        if what is not None
    )
    return (
        f'<svg class="strip" role="img" aria-label="{escape(spoken(slots))}" viewBox="0 0 '
        f'{max(1, len(slots))} 20" '
        f'preserveAspectRatio="none"><rect class="ground" width="100%" height="20"/>{bars}</svg>'
    )


def spoken(slots: Sequence[str | None]) -> str:
    """The strip in words, the latest trouble first."""
    part = _DAY / max(1, len(slots))
    known = [what for what in slots if what is not None]
    if not known:
        return "Last 24 hours: nothing is known yet"
    trouble = [run for run in _runs(slots) if run[0] not in (None, "up")]
    if not trouble:
        return f"Last 24 hours: up in all {lasting(len(known) * part)} that are known"
    told = [
        f"{what} at times in {lasting(length * part)}, {_ago(len(slots) - start - length, part)}"
        for what, start, length in trouble
    ]
    rest = f"; and {len(told) - 5} times before" if len(told) > 5 else ""
    return f"Last 24 hours: {'; '.join(reversed(told[-5:]))}{rest}"


def spark(rtts: Sequence[float | None], seconds: float) -> str:
    """Times to the answer (seconds) of the last `seconds`, oldest first; None: no answer."""
    answered = [rtt for rtt in rtts if rtt is not None]
    top = max([*answered, 0.001]) * 1.1
    curves = "".join(
        f'<polyline class="curve" points="{" ".join(points)}"/>' for points in _curves(rtts, top)
    )
    misses = "".join(
        f'<rect class="miss" x="{x - 0.5}" y="16" width="1" height="4"/>'
        for x, rtt in enumerate(rtts)
        if rtt is None
    )
    label = f"Latency over {lasting(seconds)}: "
    label += f"{milliseconds(min(answered))} to {milliseconds(max(answered))}" if answered else "no answer"
    return (
        f'<svg class="spark" role="img" aria-label="{escape(label)}" viewBox="0 0 {max(1, len(rtts) - 1)} '
        f'20" '
        f'preserveAspectRatio="none">{curves}{misses}</svg>'
    )


def milliseconds(seconds: float) -> str:
    """A time to an answer, such as `12 ms` or `0.8 ms`."""
    value = seconds * 1000
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"


def _runs(slots: Sequence[str | None]) -> Iterator[tuple[str | None, int, int]]:
    """What, from which part on, and over how many parts."""
    start = 0
    for what, group in groupby(slots):
        length = len(list(group))
        yield what, start, length
        start += length


def _curves(rtts: Sequence[float | None], top: float) -> Iterator[list[str]]:
    for missing, group in groupby(enumerate(rtts), lambda pair: pair[1] is None):
        if not missing:
            points = [f"{x},{_SPARK - 19.0 * (rtt or 0.0) / top:.1f}" for x, rtt in group]
            yield points if len(points) > 1 else [points[0], points[0]]


def _ago(parts: int, part: float) -> str:
    return "until now" if parts == 0 else f"{lasting(parts * part)} ago"
