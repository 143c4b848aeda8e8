"""Tables that turn a client's messages into reasons: the form in which every kind keeps its knowledge of
failures.
"""

from __future__ import annotations

import re

from tunnels.base import Failed, Reason

MAX_MATCHED_CHARS = 1024  # of a line: patterns see no more

Table = tuple[tuple[re.Pattern[str], Reason, str], ...]


def table(*rows: tuple[str, Reason, str]) -> Table:
    """Compile rows of pattern, reason and sentence, in which {0} is the match and {1} its first group. The
    first matching row counts.
    """
    return tuple((re.compile(pattern), reason, text) for pattern, reason, text in rows)


def explanation(rows: Table, line: str) -> Failed | None:
    """What the line says about a failure; None: nothing."""
    looked_at = line[:MAX_MATCHED_CHARS]
    for pattern, reason, text in rows:
        if match := pattern.search(looked_at):
            return Failed(reason, text.format(match[0], *match.groups(default="")))
    return None
