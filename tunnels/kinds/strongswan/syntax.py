"""The format of strongSwan's files (strongswan.conf(5), swanctl.conf(5)): read with line numbers; written."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from types import MappingProxyType

from tunnels.profiles import ProfileError, Value

Tree = dict[str, "str | Tree"]

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_NAME = re.compile(r'[^#{}:.,="\r\n\t ]+')
_PLAIN = re.compile(r'[^#}"\r\n\t ]+')
_GAP = re.compile(r"[ \t\r]*")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(r"\\(\r?\n|.)", re.DOTALL)
_LETTERS = MappingProxyType({"n": "\n", "r": "\r", "t": "\t", "\n": "", "\r\n": ""})
_DEEPEST = 16


class _Source(str):
    """A text that knows where its lines end: a file with many settings is read in linear time."""

    _ends: list[int]

    def __new__(cls, text: str) -> _Source:
        source = super().__new__(cls, text)
        source._ends = [match.start() for match in re.finditer("\n", text)]
        return source

    def line(self, at: int) -> int:
        """The number of the line with this offset, from 1."""
        return bisect_left(self._ends, at) + 1


def parse(said: str) -> Tree:
    """The sections and keys of a text in the format of strongswan.conf(5). ProfileError."""
    text = _Source(said)
    tree: Tree = {}
    at = _statements(text, 0, tree, 0)
    if at < len(text):
        raise _wrong(text, at, "a } that closes nothing")
    return tree


def _statements(text: _Source, at: int, tree: Tree, depth: int) -> int:
    """Read statements into the tree, up to a closing } or the end; returns where that is."""
    while (at := _skip(_BLANK, text, at)) < len(text) and text[at] != "}":
        match = _NAME.match(text, at)
        if match is None:
            raise _wrong(text, at, f"{text[at]!r} where a name should be")
        if match[0] == "include":
            raise _wrong(text, at, "another file is included; put everything into one file")
        at = _statement(text, match, tree, depth)
    return at


def _statement(text: _Source, name: re.Match[str], tree: Tree, depth: int) -> int:
    """Read what follows a name into the tree; returns where it ends."""
    at = _skip(_BLANK, text, name.end())
    match text[at : at + 1]:
        case "=":
            tree[name[0]], at = _value(text, at + 1)
            return at
        case "{" if depth < _DEEPEST:
            return _section(text, at, name[0], tree, depth)
        case ":":
            raise _wrong(text, at, "a section that refers to another one; write out what it takes from there")
    raise _wrong(text, at, f"neither = nor {{ after {name[0]!r}")


def _section(text: _Source, start: int, name: str, tree: Tree, depth: int) -> int:
    before = tree.get(name)
    # sections with the same name are merged
    section = tree[name] = before if isinstance(before, dict) else {}
    at = _statements(text, start + 1, section, depth + 1)
    if at >= len(text):
        raise _wrong(text, start, f"the section {name!r} is never closed")
    return at + 1


def _value(text: _Source, start: int) -> tuple[Value, int]:
    """The value from here to the end of the line, its parts separated by one space."""
    parts: list[str] = []
    at = start
    while (at := _skip(_GAP, text, at)) < len(text) and text[at] not in "\n#}":
        match = _STRING.match(text, at) or _PLAIN.match(text, at)
        if match is None:
            raise _wrong(text, at, "a quotation is never closed")
        parts.append(_unescaped(match[1]) if match.re is _STRING else match[0])
        at = match.end()
    return Value(" ".join(parts), text.line(start)), at


def _skip(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda match: _LETTERS.get(match[1], match[1]), text.replace("\r", ""))


def _wrong(text: _Source, at: int, what: str) -> ProfileError:
    return ProfileError(what, text.line(at))


def render(tree: Tree) -> str:
    """The text that `parse` reads as this tree; values contain no carriage return."""
    return "\n".join(_rendered(tree)) + "\n"


def _rendered(tree: Tree) -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield f"{name} {{"
            yield from _rendered(value)
            yield "}"
        else:
            yield f"{name} = {_quoted(value)}"


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
