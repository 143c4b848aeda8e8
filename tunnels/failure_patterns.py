"""Tables that turn a client's messages into reasons: the form in which every kind keeps its knowledge of
failures.
"""

from __future__ import annotations

import functools
import re
from collections import deque
from collections.abc import Callable

from tunnels.base import Failed, Reason
from tunnels.text import one_line

MAX_MATCHED_CHARS = 1024  # of a line: patterns see no more
MAX_QUOTED_CHARS = 200  # of a line that a sentence quotes
RECENT_LINES = 40  # of a client that was connected: what it said before is not why it has ended

_OURS = "facilitator: "  # begins the lines of programs of ours

Table = tuple[tuple[re.Pattern[str], Reason, str], ...]


def table(*rows: tuple[str, Reason, str]) -> Table:
    """Compile rows of pattern, reason and sentence, in which {0} is the match and {1} its first group. The
    first matching row counts.
    """
    return tuple((re.compile(pattern), reason, text) for pattern, reason, text in rows)


def explanation(rows: Table, words: str) -> Failed | None:
    """What these words say about a failure (the word of a state, a server's text); None: nothing."""
    found = _found(rows, words)
    return None if found is None else found[0]


def line_explanation(rows: Table, line: str) -> Failed | None:
    """What a line of the client says about a failure; None: nothing. A sentence that has no word of the line
    quotes it: what decided is never hidden by what it means in general.
    """
    if (found := _found(rows, line)) is None:
        return None
    failed, said = found
    return failed if said else Failed(failed.reason, quoting(failed.text, line))


def quoting(text: str, line: str) -> str:
    """The sentence, and after it the client's line that it does not contain; ours are no client's."""
    said = one_line(line)
    if not said or said.startswith(_OURS) or said in text:
        return text
    return f'{text} ("{said[:MAX_QUOTED_CHARS]}")'


def by(rows: Table) -> Callable[[str], Failed | None]:
    """What a line says about a failure, by this table."""
    return functools.partial(line_explanation, rows)


def _found(rows: Table, words: str) -> tuple[Failed, bool] | None:
    """What the first row that matches says, and whether its sentence has something of the words in it."""
    looked_at = words[:MAX_MATCHED_CHARS]
    for pattern, reason, text in rows:
        if match := pattern.search(looked_at):
            parts = (match[0], *match.groups(default=""))
            filled, empty = text.format(*parts), text.format(*("" for _ in parts))
            return Failed(reason, filled), filled.strip() != empty.strip()
    return None


class Explanations:
    """What a client's lines say about a failure. A line explains the end of a session and never causes it:
    the same words are printed about attempts that are repeated, and about keys that are replaced in time.
    """

    def __init__(self, explain: Callable[[str], Failed | None]) -> None:
        """`explain`: what one line says about a failure, if anything."""
        self._explain = explain
        self._count = 0  # lines so far
        self._found: deque[tuple[int, Failed]] = deque()  # the number of the line, and what it explains
        self._connected = False

    def hear(self, line: str) -> None:
        """Take one line."""
        self._count += 1
        found = self._explain(line)
        if found is not None and (self._connected or not self._found):
            self._found.append((self._count, found))
        while self._connected and self._found and self._found[0][0] <= self._count - RECENT_LINES:
            self._found.popleft()

    def connected(self) -> None:
        """The client is connected: nothing that it has said so far was decisive."""
        self._connected = True
        self._found.clear()

    @property
    def failure(self) -> Failed | None:
        """Why the client has ended: the first explanation of its attempt, or among its latest lines."""
        return self._found[0][1] if self._found else None
