"""The last own line of a client: the text of its end where nobody understands more of it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tunnels.text import one_line

MAX_CHARS = 300  # of the line that is shown
# what clients print at every end, whatever led to it
_FAREWELL = re.compile(
    r"(?:\S+ )?(?:exiting\b|use --help\b|please correct these errors|sig[a-z0-9]+\[.*\] received|closing tun|"
    r"terminated\.?$|bye\b|good-?bye|logout|logged out|done\.?$|usage:|for (?:more )?help|try '.*--help'|"
    r"-{3,}|traceback \(|\^+$)",
    re.IGNORECASE,
)
_OURS = re.compile(r"facilitator: ")  # a program of ours says what it did about it


class LastWords:
    """Remembers the last line of one client that says something."""

    def __init__(self) -> None:
        self._own: str | None = None
        self._ours: str | None = None

    def hear(self, lines: Iterable[str]) -> None:
        """Take its next lines, in which secrets are masked."""
        for line in lines:
            text = one_line(line)
            if not text or _FAREWELL.match(text[:MAX_CHARS]) is not None:
                continue
            if said := _OURS.match(text):
                self._ours = text[said.end() :]
            else:
                self._own = text

    @property
    def text(self) -> str | None:
        """That line; of our program's own only if the client itself said nothing."""
        words = self._own or self._ours
        return None if words is None else words[:MAX_CHARS]
