"""How good a tunnel is that works: too few answers, or late ones, make it degraded, which calls somebody
and restarts nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from tunnels.settings import Degraded

WINDOW = 24  # probe rounds that are looked at: two minutes with the default interval
# of the limit, at or below which the loss must fall before all is well again: nothing flips at the edge
_LOSS_AGAIN = 0.5
_RTT_AGAIN = 0.8  # the same of the round-trip time

Rounds = tuple[float | None, ...]  # seconds until the answer, None: there was none


def remembered(recent: Rounds, rtt: float | None) -> Rounds:
    """The rounds that count after one more."""
    return (*recent[1 - WINDOW :], rtt)


def loss(recent: Sequence[float | None]) -> float:
    """The part of the window that was not answered; what lies before the first round counts as answered."""
    return sum(rtt is None for rtt in recent) / WINDOW


def judged(limits: Degraded, recent: Rounds, before: str | None) -> str | None:
    """What is bad about it, None: nothing. What it was called `before` stays until it is clearly better."""
    now = "; ".join([*_lossy(limits, recent, 1.0), *_slow(limits, recent, 1.0)])
    if before is None:
        return now or None
    still = [*_lossy(limits, recent, _LOSS_AGAIN), *_slow(limits, recent, _RTT_AGAIN)]
    return before if still else None


def _lossy(limits: Degraded, recent: Rounds, share: float) -> list[str]:
    lost, limit = loss(recent), limits.loss
    if limit is None or lost < limit * share or (share < 1.0 and lost == limit * share):
        return []
    missing = sum(rtt is None for rtt in recent)
    return (
        [f"{missing} of the last {WINDOW} probe rounds unanswered ({lost:.0%}, the limit is {limit:.0%})"]
        if missing
        else []
    )


def _slow(limits: Degraded, recent: Rounds, share: float) -> list[str]:
    answered = [rtt for rtt in recent if rtt is not None]
    if (
        limits.rtt is None
        or len(answered) < WINDOW // 2
        or (median := statistics.median(answered)) < limits.rtt * share
    ):
        return []
    return [
        f"half of the probes take longer than {median * 1000:.0f} ms (the limit is "
        f"{limits.rtt * 1000:.0f} ms)"
    ]
