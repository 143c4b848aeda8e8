"""Messages for YAML syntax errors, with a hint what was probably meant."""

from __future__ import annotations

import re

import yaml

from common.configuration.problems import Position

_SPECIAL = "@`%*&!|>"
_CLOSING = {"{": "}", "[": "]"}
_QUOTES = ('"', "'")
_MISPLACED = {
    ":": "a colon with a blank after it cannot stand here; check indentation and quotes",
    "]": "this ] closes nothing",
    "}": "this } closes nothing",
}
_HINTS = (
    (
        re.compile(r":\s*\[[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]:\d+"),
        'a text that begins with [ must be quoted, as in "[::1]:9464"',
    ),
    (re.compile(r"://\["), 'an address with brackets must be quoted here, as in "tcp://[2001:db8::1]:443"'),
    (re.compile(r"^\s*[^\s:#]+:[^\s/:]"), "a blank must follow the colon after a key"),
)


def syntax_error(text: str, error: yaml.MarkedYAMLError) -> tuple[Position, str]:
    """Position and message. The message repeats at most one character of the file, which may hold a secret.

    The parser gives the position; its own messages differ between versions.
    """
    mark = error.problem_mark or error.context_mark
    row, column = (mark.line, mark.column) if mark is not None else (0, 0)
    lines = text.splitlines()
    line = lines[row] if row < len(lines) else ""
    here = Position(row + 1, column + 1)
    if _indented_by_tab(line, column):
        return here, "YAML does not allow tabs for indentation; use spaces"
    character = line[column : column + 1]
    hint = _hint(character, lines[max(0, row - 1) : row + 1])
    found = (_unfinished(lines, error.context_mark, character), hint)
    return here, f"not YAML: {'; '.join(filter(None, found)) or _misplaced(character)}"


def _unfinished(lines: list[str], began: yaml.Mark | None, here: str) -> str | None:
    """What is wrong inside of brackets or quotes, if the parser was inside of any when it gave up."""
    if began is None or began.line >= len(lines):
        return None
    opening = lines[began.line][began.column : began.column + 1]
    if opening in _CLOSING:
        return f"a comma or {_CLOSING[opening]} is missing; the {opening} stands in line {began.line + 1}"
    if opening in _QUOTES:
        return (
            "unknown escape after \\; single quotes take it as it is"
            if here
            else f"the quote from line {began.line + 1} has no end"
        )
    return None


def _misplaced(here: str) -> str:
    return _MISPLACED.get(
        here, "this does not fit what stands before it; check indentation, colons and quotes"
    )


def _indented_by_tab(line: str, column: int) -> bool:
    return "\t" in line[: column + 1] and not line[: column + 1].strip()


def _hint(here: str, nearby: list[str]) -> str | None:
    """What was probably meant, if it can be told."""
    if here and here in _SPECIAL:
        return f"a text that begins with {here} must be quoted"
    lines = [line for line in reversed(nearby) if not line.lstrip().startswith("#")]
    return next((hint for pattern, hint in _HINTS for line in lines if pattern.search(line)), None)
