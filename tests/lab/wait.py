"""Waiting with a deadline for what has no event to wait on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
# seconds that every wait has at least: on a busy machine all is slow, and where all is well nobody waits for
# long
PATIENCE = 60.0
# what several labs on two cores may add to a promised time, as a factor; `make bench` shows the times
NOISE = 3.0


def eventually(look: Callable[[], T | None], within: float, what: str, every: float = 0.02) -> T:
    """The first true value of `look`, asked every `every` seconds.

    `within` is what an idle machine may take. AssertionError naming `what` after that time, or PATIENCE if
    that is longer.
    """
    patience = max(within, PATIENCE)
    deadline = time.monotonic() + patience
    while not (found := look()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {patience:g} s: {what}")
        time.sleep(every)
    return found
