"""How good a tunnel is that works: too few answers, or late ones, make it degraded, which pages and
restarts nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from tunnels.settings import Degraded

WINDOW_ROUNDS = 24  # probe rounds that are looked at: two minutes with the default interval
# fraction of the limit to which loss or RTT must fall before it counts as good again (hysteresis)
_LOSS_AGAIN = 0.5
_RTT_AGAIN = 0.8

Rounds = tuple[float | None, ...]  # seconds until the answer, None: there was none


def remembered(recent: Rounds, rtt: float | None) -> Rounds:
    """The rounds that count after one more."""
    return (*recent[1 - WINDOW_ROUNDS :], rtt)


def loss(recent: Sequence[float | None]) -> float:
    """The part of the window that was not answered; what lies before the first round counts as answered."""
    return sum(rtt is None for rtt in recent) / WINDOW_ROUNDS


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
        [
            f"{missing} of the last {WINDOW_ROUNDS} probe rounds unanswered ({lost:.0%}, the limit is {limit:.0%})"
        ]
        if missing
        else []
    )


def _slow(limits: Degraded, recent: Rounds, share: float) -> list[str]:
    answered = [rtt for rtt in recent if rtt is not None]
    if (
        limits.rtt is None
        or len(answered) < WINDOW_ROUNDS // 2
        or (median := statistics.median(answered)) < limits.rtt * share
    ):
        return []
    return [
        f"half of the probes take longer than {median * 1000:.0f} ms (the limit is "
        f"{limits.rtt * 1000:.0f} ms)"
    ]
