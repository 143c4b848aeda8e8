"""Versioned JSON documents that one daemon writes and a later one reads. A reader accepts nothing that it
does not know.

A document of the reader's own format must have exactly the keys that the reader would write. One of an
earlier format may lack some, which then have their defaults. `format` 0 is a document without one: version
0.1.0 wrote no formats.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

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

    @functools.cached_property
    def _adapter(self) -> TypeAdapter[T]:
        """Made for the first document of the sort: that takes milliseconds, and of some sorts there never is
        one.
        """
        return TypeAdapter(self.of)

    def written(self, value: T) -> bytes:
        """The value as a document."""
        return b'{"format":%d,%s' % (
            self.format,
            self._adapter.dump_json(value)[1:],
        )  # quickly: it is done at each change of a tunnel

    def read(self, content: bytes) -> T:
        """The value in a document. NotUnderstood."""
        format, raw = opened(content, self.format)
        if format < self.format:
            raw = self.upgrade(format, raw)
        try:
            value = self._adapter.validate_json(json.dumps(raw))
        except ValidationError as error:
            where = ".".join(map(str, error.errors(include_url=False, include_input=False)[0]["loc"]))
            raise NotUnderstood(f"{where or 'it'} is not what it should be") from None
        known = self._adapter.dump_python(value, mode="json")
        unknown = next(_only_in(raw, known), None)
        if unknown is not None:
            raise NotUnderstood(f"{unknown} is unknown to this version")
        missing = next(_only_in(known, raw), None)
        if missing is not None and format == self.format:
            raise NotUnderstood(f"{missing} is missing")
        return value


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


def _only_in(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Paths of keys that the first has and the second has not."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key, value in one.items():
            here = f"{path}.{key}" if path else key
            yield from _only_in(value, other[key], here) if key in other else (here,)
    elif isinstance(one, list) and isinstance(other, list):
        for number, (value, counterpart) in enumerate(zip(one, other, strict=False)):
            yield from _only_in(value, counterpart, f"{path}.{number}")
