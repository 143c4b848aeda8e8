"""Exponential backoff with full jitter, the one formula for every pause before a retry.

Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. Pure: the caller supplies
the randomness.
"""

from __future__ import annotations

from dataclasses import dataclass

_MAX_DOUBLINGS = 62  # 2.0 ** 62 seconds is longer than any limit, and no float overflows


@dataclass(frozen=True, slots=True)
class Backoff:
    """The pause before retry n lies between a floor and a ceiling that doubles with n, up to a limit."""

    floor_seconds: float
    first_ceiling_seconds: float  # ceiling of the first retry
    max_seconds: float  # the ceiling grows no further

    def pause(self, retry: int, random_unit: float) -> float:
        """Seconds to wait before the `retry`-th retry (1 is the first); `random_unit` lies in [0, 1)."""
        doublings = min(retry - 1, _MAX_DOUBLINGS)
        ceiling = min(self.max_seconds, self.first_ceiling_seconds * 2.0**doublings)
        return self.floor_seconds + random_unit * (ceiling - self.floor_seconds)
