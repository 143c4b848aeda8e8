"""Tables that turn the words of a client into reasons: the one form in which every kind keeps what it
knows about failures.
"""

from __future__ import annotations

import re

from tunnels.base import Failed, Reason

LOOKED_AT = 1024  # characters of a line in which a reason is looked for

Table = tuple[tuple[re.Pattern[str], Reason, str], ...]


def table(*rows: tuple[str, Reason, str]) -> Table:
    """Rows of pattern, reason and text, where {0} is the match and {1} its first group; the first row that
    is found counts.
    """
    return tuple((re.compile(pattern), reason, text) for pattern, reason, text in rows)


def explanation(rows: Table, line: str) -> Failed | None:
    """What the line says about a failure; None: nothing."""
    looked_at = line[:LOOKED_AT]
    for pattern, reason, text in rows:
        if match := pattern.search(looked_at):
            return Failed(reason, text.format(match[0], *match.groups(default="")))
    return None
