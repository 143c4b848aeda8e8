"""Regular expressions that a configuration may contain. RE2 matches in linear time, whatever the pattern.

What remains is the size of patterns, which is bounded: one by its memory, and all of a tunnel together by
their instructions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

MAX_MATCHED_CHARS = 512  # of a line: patterns see no more
# of all patterns of a tunnel; the worst of them take less than 0.1 s per line
MAX_INSTRUCTIONS = 10_000
_MAX_MEMORY_BYTES = 256 << 10  # of one pattern, with the state of a match

# RE2's messages, and ours
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
    """The compiled pattern. ValueError says what is wrong with it, and where."""
    import re2  # most configurations have no patterns

    options = re2.Options()
    options.max_mem, options.log_errors = _MAX_MEMORY_BYTES, False
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
    """ValueError: these patterns are too large together."""
    if sum(compiled(pattern).programsize for pattern in patterns) > MAX_INSTRUCTIONS:
        raise ValueError(
            "the regular expressions of this tunnel are too large together; use fewer, or smaller numbers "
            "of repetitions"
        )


def _explained(said: str) -> str:
    return next((why for words, why in _WHY if said.startswith(words)), said)


def _place(pattern: str, said: str) -> str:
    """Where the part is that RE2 complains about; empty if that is the whole pattern."""
    part = said.partition(": ")[2]
    at = pattern.find(part) if part else -1
    return "" if at < 0 or part == pattern else f" (at character {at + 1})"
