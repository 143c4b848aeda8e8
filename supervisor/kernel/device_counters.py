"""Bytes through each device, as the kernel counts them; read at scrape time only."""

from __future__ import annotations

import time
from pathlib import Path

_TABLE = Path(
    "/proc/self/net/dev"
)  # of our own network namespace, unlike /sys, which shows the one it was mounted in
_FRESH = 0.2  # seconds: one reading serves all devices of a scrape


class LinkBytes:
    """`(received, sent)` of a device by name, or None where there is none. For one thread at a time."""

    def __init__(self) -> None:
        self._read_at = float("-inf")
        self._counters: dict[str, tuple[int, int]] = {}

    def __call__(self, device: str) -> tuple[int, int] | None:
        """Bytes since the device was made (proc(5), net/dev: columns 1 and 9)."""
        now = time.monotonic()
        if now - self._read_at > _FRESH:
            self._counters, self._read_at = _read(), now
        return self._counters.get(device)


def _read() -> dict[str, tuple[int, int]]:
    rows = (line.partition(":") for line in _TABLE.read_text().splitlines()[2:])
    columns = {name.strip(): numbers.split() for name, _, numbers in rows}
    return {name: (int(numbers[0]), int(numbers[8])) for name, numbers in columns.items()}
