"""Versioned JSON documents that one daemon writes and a later one reads. A reader accepts nothing that it
does not know.

A document of the reader's own format must have exactly the keys that the reader would write. One of an
earlier format may lack some, which then have their defaults. `format` 0 is a document without one: version
0.1.0 wrote no formats.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from common.plain import UNKNOWN, NotPlain, from_plain, plain

T = TypeVar("T")
_FORMAT = "format"
_LARGEST = 1 << 63  # what the kernel and the clock take


Upgrade = Callable[[int, Any], Any]  # from the format of a document and its content to content of today


def document(of: type[T], format: int, upgrade: Upgrade = lambda format, raw: raw) -> Document[T]:
    """A kind of document, by its type. `upgrade` rewrites the content of one in an earlier format."""
    return Document(of, format, upgrade)


class NotUnderstood(ValueError):
    """The document cannot be read, in words."""


@dataclass(frozen=True)
class Document(Generic[T]):
    """A sort of document: what it is of, and the format in which it is written. That grows with every
    change of what it is of.
    """

    of: type[T]
    format: int
    upgrade: Upgrade

    def written(self, value: T) -> bytes:
        """The value as a document."""
        return json.dumps({_FORMAT: self.format, **plain(value)}, separators=(",", ":")).encode()

    def read(self, content: bytes) -> T:
        """The value in a document. NotUnderstood."""
        format, raw = opened(content, self.format)
        if format < self.format:
            raw = self.upgrade(format, raw)
        try:
            return from_plain(self.of, raw, complete=format == self.format)
        except NotPlain as error:
            of_another = " to this version" if error.problem == UNKNOWN else ""
            raise NotUnderstood(f"{error.where or 'it'} {error.problem}{of_another}") from None


def opened(content: bytes, newest: int) -> tuple[int, Any]:
    """The format of a document, and the rest of it. NotUnderstood: it is no JSON, or of a format that is
    newer than this.
    """
    try:
        raw = parsed(content)
    except (ValueError, RecursionError):
        raise NotUnderstood("it is damaged") from None
    format = raw.pop(_FORMAT, 0) if isinstance(raw, dict) else 0
    if type(format) is not int or not 0 <= format <= newest:
        raise NotUnderstood(f"its format is {format!r:.40}, and this version knows {newest}")
    return format, raw


def parsed(content: bytes) -> Any:
    """The JSON in a document. ValueError or RecursionError: it is none, or has a number that nothing could
    be done with.
    """
    return json.loads(content, parse_int=_whole, parse_float=_real, parse_constant=_real)


def _whole(text: str) -> int:
    _real(text)
    return int(text)


def _real(text: str) -> float:
    number = float(text)
    if not abs(number) < _LARGEST:  # endless ones too, and what is none
        raise ValueError(f"{text:.40} is too large a number")
    return number
