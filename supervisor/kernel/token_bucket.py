"""A token bucket: so many at once, then so many a second."""

from __future__ import annotations


class TokenBucket:
    """`burst` tokens, refilled at `rate` a second. Time is an argument, in monotonic seconds."""

    def __init__(self, burst: int, rate: float) -> None:
        self._burst = burst
        self._rate = rate
        self._tokens = float(burst)
        self._at: float | None = None

    def take(self, now: float) -> bool:
        """Take a token, if there is one."""
        if self._at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    @property
    def wait(self) -> float:
        """Seconds until there is a token again, counted from the last `take`."""
        return max(0.0, (1 - self._tokens) / self._rate)
