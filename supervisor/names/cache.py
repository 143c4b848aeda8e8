"""Answers that are kept until their TTL is over, bounded in number and in bytes; the one that was not used
for longest goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from supervisor.names.wire import NameAnswer

MAX_ANSWERS = 50_000
MAX_BYTES = 32 << 20  # of bodies and keys
_OVERHEAD = 400  # bytes of memory of an answer beside its body, about

Key = tuple[str, bytes, int]  # tunnel, name in lower case, type


@dataclass(slots=True)
class _Kept:
    answer: NameAnswer
    since: float
    until: float
    size: int


class Cache:
    """The answers of all tunnels. Moments are seconds of one clock, which the caller reads."""

    def __init__(self, answers: int = MAX_ANSWERS, size: int = MAX_BYTES) -> None:
        self._most, self._most_bytes = answers, size
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Key, now: float) -> tuple[NameAnswer, int] | None:
        """The answer and its age in whole seconds; None: there is none."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if now >= kept.until:
            self._remove(key)
            return None
        self._kept.move_to_end(key)
        return kept.answer, int(now - kept.since)

    def put(self, key: Key, answer: NameAnswer, now: float) -> None:
        """Keep it for its lifetime."""
        if key in self._kept:
            self._remove(key)
        if answer.lifetime <= 0:
            return
        size = 2 * len(answer.body) + len(key[1]) + _OVERHEAD
        self._kept[key] = _Kept(answer, now, now + answer.lifetime, size)
        self.bytes += size
        while len(self._kept) > self._most or self.bytes > self._most_bytes:
            self._remove(next(iter(self._kept)))

    def forget(self, tunnel: str) -> None:
        """Of this tunnel nothing is known any more."""
        for key in [key for key in self._kept if key[0] == tunnel]:
            self._remove(key)

    def _remove(self, key: Key) -> None:
        self.bytes -= self._kept.pop(key).size
