"""Notices that this host's clock was set: the wall clock has moved against one that only time moves."""

from __future__ import annotations

import time
from collections.abc import Callable

STEP_SECONDS = 1.0  # adjtime(3) and NTP slew by far less between two looks


def since_boot() -> float:
    """Seconds since the boot of the host, suspended ones included (CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ClockWatch:
    """Remembers where the clock stood at the last look."""

    def __init__(self, wall: Callable[[], float] = time.time, boot: Callable[[], float] = since_boot) -> None:
        """`wall` gives Unix time, `boot` seconds that nobody can set."""
        self._wall, self._boot = wall, boot
        self._offset = wall() - boot()
        self._unsynchronised = False  # at some look before

    def corrected(self, synchronised: bool | None) -> bool:
        """Whether the clock was set since the last look, or is synchronised now for the first time."""
        offset, before = self._wall() - self._boot(), self._offset
        first = synchronised is True and self._unsynchronised
        self._offset, self._unsynchronised = (
            offset,
            synchronised is False or (self._unsynchronised and not first),
        )
        return first or abs(offset - before) >= STEP_SECONDS
