"""The search for the largest packet that passes: which size to try next, given what passed so far (sans I/O).

    search = Search.between(576, 1500)
    while (size := search.next) is not None:
        search = search.after(size, passed=...)
    search.found

The smallest size comes first: a target that does not answer even that says nothing about the path. The
largest comes second, because most paths take it. Then the interval is halved. Sizes are whole IP packets in
bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

SMALLEST = {
    4: 576,
    6: 1280,
}  # bytes that any host takes (RFC 1122, section 3.3.3; RFC 8200, section 5), by IP version


@dataclass(frozen=True, slots=True)
class Search:
    """What is known: `passed` got through (0: nothing yet), `failed` did not; what lies between is open."""

    smallest: int
    largest: int
    passed: int
    failed: int

    @classmethod
    def between(cls, smallest: int, largest: int) -> Self:
        """Nothing known about the sizes from `smallest` to `largest`. A `largest` below `smallest` is the
        only size to try.
        """
        return cls(min(smallest, largest), largest, 0, largest + 1)

    @property
    def next(self) -> int | None:
        """The size to try; None: the search is over."""
        if self.passed == 0:
            return self.smallest if self.smallest < self.failed else None
        if self.failed - self.passed <= 1:
            return None
        if self.failed > self.largest:
            return self.largest
        return (self.passed + self.failed) // 2

    def after(self, size: int, passed: bool) -> Self:
        """The search once a packet of this size came back, or did not."""
        return (
            replace(self, passed=max(self.passed, size))
            if passed
            else replace(self, failed=min(self.failed, size))
        )

    @property
    def found(self) -> int | None:
        """The largest size that passes; None while it is not known, and if not even the smallest one did."""
        return self.passed or None if self.next is None else None
