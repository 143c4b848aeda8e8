"""Secret masking, defence in depth: keeps registered secrets out of everything that leaves the daemon.

What a client says is masked four times, and none of these is redundant:

1. in `clients.lines`, where its output enters: from there on its lines, errors and questions are clean; 2. in
`reports.history.recorder`, before a text is stored; 3. in `reports.paging`, before it is sent to another
company; 4. in `app.api.status_page_model`, before it is shown to everybody who may read the status page.

The first place knows the client's own secrets, the later ones (and every log event) all secrets of the
daemon. They repeat it on purpose: an error in one of them must not publish a secret. All of them search by
`common.redaction`.
"""

from __future__ import annotations

import threading
from typing import Any

from common.redaction import MIN_SECRET_CHARS, Redactor

__all__ = ["MASK", "MIN_SECRET_CHARS", "Secrets"]

MASK = "[secret]"


class Secrets:
    """The values that must never be shown. Thread-safe."""

    def __init__(self) -> None:
        self._redactor = Redactor(MASK)
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def add(self, value: str) -> None:
        """Mask this value from now on, each of its lines by itself, in every encoding that `common.redaction`
        knows.
        """
        with self._lock:
            if value not in self._known:
                self._known.add(value)
                self._redactor.add((value,))

    def mask(self, text: str) -> str:
        """The text with every registered value replaced."""
        return self._redactor.text(text)

    def masked(self, value: Any) -> Any:
        """A copy of a structure of mappings, sequences and text with every registered value replaced; objects
        that are not plain values become their masked text.
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
