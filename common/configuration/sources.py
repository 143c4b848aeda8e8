"""A configuration of several files as one text: the main file, then each included file after a line with its
name. So whoever keeps, compares or hands on the text of a configuration has all of it.

Nothing here parses YAML, which a daemon does without.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_MARK = "\x1cincluded file "  # begins with a file separator (ASCII), which no readable text holds
_INCLUDE = re.compile(r"""^include:[ \t]*(["']?)([^"'#\n]*?)\1[ \t]*(?:#.*)?$""", re.M)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a configuration."""

    name: str  # as found: below the directory of the main file, or absolute
    text: str


def include_pattern(text: str) -> str | None:
    """The value of `include:`, as it can be read without parsing the file; None: there is none."""
    found = _INCLUDE.search(text)
    return (found[2] or None) if found is not None else None


def join(main: str, included: Iterable[SourceFile]) -> str:
    """One text of all files."""
    parts = (f"{_MARK}{file.name}\n{_readable(file.text)}" for file in included)
    return "".join((_readable(main), *parts))


def split(text: str) -> tuple[str, tuple[SourceFile, ...]]:
    """The text of the main file, and the included files."""
    main, *parts = text.split(_MARK)
    named = (part.partition("\n") for part in parts)
    return main, tuple(SourceFile(name, body) for name, _, body in named)


def _readable(text: str) -> str:
    """A mark in a file becomes another character that a configuration must not hold: it is reported there."""
    return text.replace(_MARK, "\x1d" + _MARK[1:])
