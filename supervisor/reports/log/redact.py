"""Keeps registered secrets out of everything that leaves: log lines and incidents."""

from __future__ import annotations

import threading
from typing import Any

from supervisor.core.redaction import SHORTEST, Redactor

__all__ = ["MASK", "SHORTEST", "Secrets"]

MASK = "[secret]"


class Secrets:
    """The values that must never be shown. From any thread."""

    def __init__(self) -> None:
        self._redactor = Redactor(MASK)
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def add(self, value: str) -> None:
        """Mask this value from now on, each line of it by itself, and however it is encoded."""
        with self._lock:
            if value not in self._known:
                self._known.add(value)
                self._redactor.add((value,))

    def mask(self, text: str) -> str:
        """The text with every registered value replaced."""
        return self._redactor.text(text)

    def masked(self, value: Any) -> Any:
        """The same for anything made of mappings, sequences and text; other things than plain values
        become their masked text.
        """
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
