"""Waiting with a deadline for what has no event to wait on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(look: Callable[[], T | None], within: float, what: str, every: float = 0.02) -> T:
    """The first true value of `look`, asked every `every` seconds; AssertionError naming `what` after `within` seconds."""
    deadline = time.monotonic() + within
    while not (found := look()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {within:g} s: {what}")
        time.sleep(every)
    return found
