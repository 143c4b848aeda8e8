"""A token bucket, the usual rate limit: so many at once, then so many a second."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """A value; each change gives another one. Time is an argument, in monotonic seconds."""

    burst: float  # the most tokens that it holds
    rate: float  # tokens that come back in a second
    spent: float = 0.0  # tokens that are missing
    at: float = 0.0  # when that was true

    def at_time(self, now: float) -> TokenBucket:
        """The bucket at this moment."""
        return replace(self, spent=max(0.0, self.spent - max(0.0, now - self.at) * self.rate), at=now)

    def take(self) -> TokenBucket | None:
        """The bucket without one token; None: it holds none."""
        return replace(self, spent=self.spent + 1) if self.spent + 1 <= self.burst else None

    @property
    def wait_seconds(self) -> float:
        """Until there is a token, counted from `at`."""
        return max(0.0, self.spent + 1 - self.burst) / self.rate
