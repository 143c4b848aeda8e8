"""Notices that this daemon did not run for a while, because the whole host stood still: suspended, a frozen
virtual machine, a paused container. Nobody knows what tunnels were to their users meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

STANDSTILL_SECONDS = 15.0  # without a sign of life; a busy host delays one by far less


@dataclass(frozen=True, slots=True)
class Standstill:
    """An interval in which nothing ran; `seconds` counts those in which the host was suspended, too."""

    began: float  # monotonic seconds
    ended: float
    seconds: float


def suspended() -> float:
    """Seconds that the host was suspended since its boot: only CLOCK_BOOTTIME counts them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()


class SignsOfLife:
    """Remembers the last sign of life. Not thread-safe."""

    def __init__(self, clock: Callable[[], float], suspended: Callable[[], float] = suspended) -> None:
        """`clock` gives monotonic seconds."""
        self._clock, self._suspended = clock, suspended
        self._last: tuple[float, float] | None = None

    def alive(self) -> Standstill | None:
        """A sign of life, about once a second; and the standstill that it ends, if any."""
        before, self._last = self._last, (self._clock(), self._suspended())
        return None if before is None else self._between(before, self._last)

    def standstill(self) -> Standstill | None:
        """The standstill that ends now: a sign of life only if there was one."""
        if self._last is None:
            return None
        found = self._between(self._last, (self._clock(), self._suspended()))
        return None if found is None else self.alive()

    @staticmethod
    def _between(before: tuple[float, float], now: tuple[float, float]) -> Standstill | None:
        seconds = sum(now) - sum(before)
        return Standstill(before[0], now[0], seconds) if seconds >= STANDSTILL_SECONDS else None
