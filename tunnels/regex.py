"""Regular expressions that a configuration may hold: RE2 takes time in proportion to the length of a line,
whatever the pattern.

What that leaves is the size of a pattern, which is bounded: one by its memory, and all of a tunnel together
by their size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

LOOKED_AT = 512  # characters of a line that patterns see
# instructions of all patterns of a tunnel; the worst of them take less than a tenth of a second for a line
LARGEST = 10_000
_MEMORY = 256 << 10  # bytes of one pattern, with what it remembers while it looks

# RE2's words for what it does not take, and ours
_WHY = (
    ("invalid perl operator: (?=", "it looks ahead, which RE2 does not support; match the text itself"),
    ("invalid perl operator: (?!", "it looks ahead, which RE2 does not support; match the text itself"),
    ("invalid perl operator: (?<", "it looks behind, which RE2 does not support; match the text itself"),
    ("invalid perl operator: (?>", "atomic groups are not supported by RE2, and not needed; write (?:...)"),
    ("invalid escape sequence: \\Z", "the end of a line is $ or \\z"),
    (
        "invalid escape sequence: \\",
        "RE2 does not know this escape sequence; it may be a reference to a group, which cannot be matched",
    ),
    ("invalid named capture group", "this is not the name of a group; write (?P<name>...)"),
    ("bad repetition operator", "possessive repetition is not supported by RE2, and not needed"),
    ("invalid repetition size", "it repeats something more than 1000 times"),
    ("no argument for repetition operator", "there is nothing to repeat"),
    ("missing ]", "a ] is missing"),
    ("missing )", "a ) is missing"),
    ("unexpected )", "a ( is missing"),
    ("invalid character class range", "this range of characters is none"),
    ("trailing \\", "there is nothing after the last backslash"),
    ("pattern too large", "it is too large"),
)


def compiled(pattern: str) -> Any:
    """The pattern, ready to search with. ValueError says where it is wrong, and how."""
    import re2  # most configurations have no patterns

    options = re2.Options()
    options.max_mem, options.log_errors = _MEMORY, False
    try:
        return re2.compile(pattern, options)
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{pattern!r} is not a regular expression: half a character at character {error.start + 1}"
        ) from None
    except re2.error as error:
        said = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        raise ValueError(
            f"{pattern!r} is not a regular expression: {_explained(said)}{_place(pattern, said)}"
        ) from None


def check_sizes(patterns: Iterable[str]) -> None:
    """ValueError: these are too large together."""
    if sum(compiled(pattern).programsize for pattern in patterns) > LARGEST:
        raise ValueError(
            "the regular expressions of this tunnel are too large together; use fewer, or smaller numbers "
            "of repetitions"
        )


def _explained(said: str) -> str:
    return next((why for words, why in _WHY if said.startswith(words)), said)


def _place(pattern: str, said: str) -> str:
    """Where the part is that RE2 complains about; nothing if that is all of it."""
    part = said.partition(": ")[2]
    at = pattern.find(part) if part else -1
    return "" if at < 0 or part == pattern else f" (at character {at + 1})"
