"""Names and moments that a hub sends: what is accepted as one, because people read them in logs and pages."""

from __future__ import annotations

import math

MAX_NAME_LENGTH = 200
MAX_GROUPS = 100  # of one person


def is_name(value: object) -> bool:
    """A printable text without spaces at its ends, of a length that fits into a line."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_NAME_LENGTH
        and value.isprintable()
        and value == value.strip()
    )


def shown(value: object) -> str:
    """A text that is only shown: what is not printable is left out, and it is cut."""
    text = value if isinstance(value, str) else ""
    return "".join(each for each in text[:MAX_NAME_LENGTH] if each.isprintable())


def as_moment(value: object) -> float | None:
    """A moment of Unix time in seconds; None: it is none."""
    if type(value) is float or (type(value) is int and abs(value) < 1 << 53):
        moment = float(value)
        return moment if math.isfinite(moment) and 0 <= moment < 1e11 else None
    return None
