"""A YAML syntax error in words, with what was probably meant."""

from __future__ import annotations

import re

import yaml

from supervisor.config.report import Mark, Where

_SPECIAL = "@`%*&!|>"
_HINTS = (
    (re.compile(r":\s*\[[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]:\d+"), 'a text that begins with [ must be quoted, as in "[::1]:9464"'),
    (re.compile(r"://\["), 'an address with brackets must be quoted here, as in "tcp://[2001:db8::1]:443"'),
    (re.compile(r"^\s*[^\s:#]+:[^\s/:]"), "a blank must follow the colon after a key"),
)


def syntax_error(text: str, error: yaml.MarkedYAMLError) -> tuple[Mark, Where, str]:
    """Where the error is and what to say about it. The text repeats at most one character of the file: it may hold a secret."""
    mark = error.problem_mark or error.context_mark
    row, column = (mark.line, mark.column) if mark is not None else (0, 0)
    lines = text.splitlines()
    line = lines[row] if row < len(lines) else ""
    if _indented_by_tab(line, column):
        return Mark(row + 1, column + 1), (), "YAML does not allow tabs for indentation; use spaces"
    message = ": ".join(filter(None, (error.context, error.problem)))
    return Mark(row + 1, column + 1), (), f"not YAML: {message}{_hint(line[column:column + 1], lines[max(0, row - 1):row + 1])}"


def _indented_by_tab(line: str, column: int) -> bool:
    return "\t" in line[:column + 1] and not line[:column + 1].strip()


def _hint(here: str, nearby: list[str]) -> str:
    if here and here in _SPECIAL:
        return f"; a text that begins with {here} must be quoted"
    lines = [line for line in reversed(nearby) if not line.lstrip().startswith("#")]
    hint = next((hint for pattern, hint in _HINTS for line in lines if pattern.search(line)), None)
    return f"; {hint}" if hint else ""
