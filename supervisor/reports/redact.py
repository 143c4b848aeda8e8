"""Keeps registered secrets out of everything that leaves: log lines and incidents."""

from __future__ import annotations

import re
import threading
from typing import Any
from urllib.parse import quote

MASK = "[secret]"
SHORTEST = 4        # characters: anything shorter would mask ordinary words


class Secrets:
    """The values that must never be shown. From any thread."""

    def __init__(self) -> None:
        self._values: frozenset[str] = frozenset()
        self._pattern: re.Pattern[str] | None = None
        self._lock = threading.Lock()

    def add(self, value: str) -> None:
        """Mask this value from now on, each line of it by itself and its percent-encoded form too."""
        lines = {line for text in (value, *value.splitlines()) if len(line := text.strip()) >= SHORTEST}
        forms = lines | {quote(line, safe="") for line in lines}
        with self._lock:
            if forms <= self._values:
                return
            self._values |= forms
            longest_first = sorted(self._values, key=lambda text: (-len(text), text))
            self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def mask(self, text: str) -> str:
        """The text with every registered value replaced."""
        pattern = self._pattern
        return text if pattern is None else pattern.sub(MASK, text)

    def masked(self, value: Any) -> Any:
        """The same for anything made of mappings, sequences and text; other things than plain values become their masked text."""
        match value:
            case str():
                return self.mask(value)
            case None | bool() | int() | float():
                return value
            case dict():
                return {self.masked(k): self.masked(v) for k, v in value.items()}
            case list() | tuple():
                return [self.masked(item) for item in value]
            case _:
                return self.mask(str(value))
