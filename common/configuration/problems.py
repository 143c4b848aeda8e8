"""What is wrong with a configuration file, and where.

Every stage of `parse` adds to one `Report`, so that one run shows all errors of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

KeyPath = tuple[str | int, ...]  # a path into the file, such as ("tunnels", "acme-dc", "destinations", 0)

_MAX_TEXT_CHARACTERS = 600


class Position(NamedTuple):
    """A position in the file; line and column count from 1."""

    line: int
    column: int


def later(position: Position, lines: int) -> Position:
    """The position so many lines further down."""
    return Position(position.line + lines, position.column)


@dataclass(frozen=True, slots=True)
class Problem:
    """An error or a warning. Never contains a secret."""

    file: str
    position: Position
    where: KeyPath
    text: str
    warning: bool = False  # allowed, and may surprise; False: an error

    def __str__(self) -> str:
        """`FILE:LINE:COLUMN: tunnels.acme-dc.destinations.0: what is wrong`; of a warning with that word
        before the path.
        """
        word = "warning: " if self.warning else ""
        path = f"{one_line(dotted(self.where))}: " if self.where else ""
        return f"{self.file}:{self.position.line}:{self.position.column}: {word}{path}{self.text}"


class ConfigErrors(Exception):
    """The configuration is invalid: all of its errors by position, and its warnings."""

    def __init__(self, problems: tuple[Problem, ...], warnings: tuple[Problem, ...] = ()) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems
        self.warnings = warnings

    def __iter__(self) -> Iterator[Problem]:
        return iter(self.problems)


@dataclass(slots=True)
class Report:
    """Collects problems. The same text at the same position counts once: many tunnels may share one
    default.
    """

    file: str
    _included: list[tuple[int, str]] = field(default_factory=list)  # lines before a file, and its name
    _errors: dict[tuple[Position, str], Problem] = field(default_factory=dict)
    _warnings: dict[tuple[Position, str], Problem] = field(default_factory=dict)

    def error(self, position: Position, where: KeyPath, text: str) -> None:
        """Add an error."""
        file, shown = self.locate(position)
        self._errors.setdefault((position, text), Problem(file, shown, where, one_line(text)))

    def warning(self, position: Position, where: KeyPath, text: str) -> None:
        """Add a warning: something that is allowed and may surprise."""
        file, shown = self.locate(position)
        problem = Problem(file, shown, where, one_line(text), warning=True)
        self._warnings.setdefault((position, text), problem)

    def include(self, other: Report, lines: int) -> None:
        """Take the problems of an included file. From now on a position after this number of lines is one in
        that file, counted from there.
        """
        self._included.append((lines, other.file))
        for mine, others in ((self._errors, other._errors), (self._warnings, other._warnings)):
            mine.update({(later(at, lines), text): problem for (at, text), problem in others.items()})

    def locate(self, position: Position) -> tuple[str, Position]:
        """The file that holds this position, and where it is there."""
        for before, name in reversed(self._included):
            if position.line > before:
                return name, Position(position.line - before, position.column)
        return self.file, position

    def line(self, position: Position) -> str:
        """The line of a position for messages: `line 12`, or `line 3 of conf.d/acme.yaml`."""
        file, shown = self.locate(position)
        return f"line {shown.line}" + ("" if file == self.file else f" of {file}")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The warnings so far, by position."""
        return _sorted(self._warnings)

    def finish(self) -> tuple[Problem, ...]:
        """The warnings; ConfigErrors when there was any error."""
        if self._errors:
            raise ConfigErrors(_sorted(self._errors), self.warnings)
        return self.warnings


def one_line(text: str) -> str:
    """The text without control characters, shortened in the middle to _MAX_TEXT_CHARACTERS."""
    clean = text
    if not text.isprintable():
        clean = "".join(character if character.isprintable() else " " for character in text)
    return (
        clean
        if len(clean) <= _MAX_TEXT_CHARACTERS
        else f"{clean[: _MAX_TEXT_CHARACTERS // 2]} … {clean[-_MAX_TEXT_CHARACTERS // 2 :]}"
    )


def dotted(where: KeyPath) -> str:
    """The path as it is written: `tunnels.acme-dc.destinations.0`."""
    return ".".join(map(str, where))


def _sorted(problems: dict[tuple[Position, str], Problem]) -> tuple[Problem, ...]:
    return tuple(
        problem
        for _, problem in sorted(
            problems.items(), key=lambda entry: (entry[0][0], entry[1].where == (), str(entry[1]))
        )
    )
