"""Finds secrets in text, also where a program has encoded them, and puts a mask in their place. Pure.

A secret is found as it is and in other case; in a URL, a form, JSON, HTML and any mixture of these; in
hexadecimal; and in base64, also where it is a part of what was encoded, as in `user:password` of HTTP Basic.
Nothing of a text changes but what is masked.
"""

from __future__ import annotations

import html
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate

SHORTEST = 4  # characters of a secret: anything shorter would mask half of every line
_LONGEST_ESCAPE = 6  # characters for one, as in \u0041
_GRAM = 4  # characters at the beginning of a form that are looked for first
_FEW = 40  # forms that are looked for one by one; more of them only where a beginning was found

# How programs write letters, by the first sign of it, which makes the search quick; `B` is the first digit of
# a byte.
_ESCAPES = {
    "%": r"%[B][0-9A-Fa-f](?:%[B][0-9A-Fa-f])*",
    "\\": r"\\(?:u[0-9A-Fa-f]{4}(?:\\u[0-9A-Fa-f]{4})*|x[B][0-9A-Fa-f](?:\\x[B][0-9A-Fa-f])*|[^ux])",
    "&": r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});",
}
_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "0": "\0"}
_BEFORE = re.compile(r"[A-Za-z0-9+/_-]?\Z")
_AFTER = re.compile(r"[A-Za-z0-9+/_-]?=*")


class _Ways:
    """The ways in which a text can be read, beside as it is: by each kind of escape alone, and by all of
    them at once.
    """

    def __init__(self, first_digits: str) -> None:
        """`first_digits` of the bytes that matter."""
        patterns = {sign: pattern.replace("B", first_digits) for sign, pattern in _ESCAPES.items()}
        self._alone = {sign: re.compile(pattern) for sign, pattern in patterns.items()}
        self._mixed = re.compile("|".join(patterns.values()))

    def of(self, text: str) -> tuple[re.Pattern[str], ...]:
        """Those that make a difference."""
        ways = [pattern for sign, pattern in self._alone.items() if sign in text and pattern.search(text)]
        return (*ways, self._mixed) if len(ways) > 1 else tuple(ways)


_OF_ASCII, _OF_ALL = (
    _Ways("0-7"),
    _Ways("0-9A-Fa-f"),
)  # binary output is full of other bytes, which no secret in ASCII can hold


@dataclass(frozen=True, slots=True)
class _Forms:
    """What is looked for: `folded` in any case, `encoded` exactly."""

    folded: frozenset[str] = frozenset()
    encoded: frozenset[str] = frozenset()
    beginnings: frozenset[str] = frozenset()

    def found(self, text: str) -> bool:
        """One of them is in the text."""
        folded = _fold(text)
        if len(self.folded) + len(self.encoded) > _FEW and self.beginnings.isdisjoint(
            {*_grams(text), *_grams(folded)}
        ):
            return False
        return any(form in folded for form in self.folded) or any(form in text for form in self.encoded)

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where they are."""
        folded = _fold(text)
        for form in self.folded:
            yield from _places(folded, form)
        for form in self.encoded:
            yield from (_widened(text, *place) for place in _places(text, form))


@dataclass(slots=True)
class Redactor:
    """Replaces secrets in text. From any thread."""

    mask: str
    longest: int = 0  # characters that a form of a secret may take
    _forms: _Forms = field(default_factory=_Forms)
    _ways: _Ways = _OF_ASCII

    def add(self, secrets: Iterable[str]) -> None:
        """Mask these too from now on, each line of them by itself; not the lines that frame a key."""
        parts = {part for secret in secrets for part in _parts(secret.strip()) if len(part) >= SHORTEST}
        folded = self._forms.folded.union(*(_folded_forms(part) for part in parts))
        encoded = self._forms.encoded.union(*(_base64_forms(part.encode(errors="replace")) for part in parts))
        self.longest = max(self.longest, *(_LONGEST_ESCAPE * len(part) for part in parts), 0)
        if not all(part.isascii() for part in parts):
            self._ways = _OF_ALL
        self._forms = _Forms(folded, encoded, frozenset(form[:_GRAM] for form in folded | encoded))

    def finds(self, text: str) -> bool:
        """There is something to mask."""
        forms = self._forms
        return forms.found(text) or any(
            forms.found(escapes.sub(_meant, text)) for escapes in self._ways.of(text)
        )

    def text(self, text: str) -> str:
        """The text with every secret replaced."""
        if not self.finds(text):
            return text
        spans = list(self._forms.spans(text))
        for escapes in self._ways.of(text):
            decoded, starts = _decode(text, escapes)
            spans += (_origin(starts, *place) for place in self._forms.spans(decoded))
        return _replaced(text, sorted(spans), self.mask)


def _replaced(text: str, spans: Iterable[tuple[int, int]], mask: str) -> str:
    pieces: list[str] = []
    end = 0
    for first, last in spans:
        if first >= end:
            pieces += (text[end:first], mask)
        end = max(end, last)
    return "".join((*pieces, text[end:]))


# --- forms of a secret
# ----------------------------------------------------------------------------------------------------------


def _parts(secret: str) -> set[str]:
    """The secret and its lines."""
    lines = {line.strip() for line in secret.splitlines()}
    return {secret, *(line for line in lines if not line.startswith("-----"))}


def _folded_forms(part: str) -> set[str]:
    return {_fold(part), part.encode(errors="replace").hex()}


def _base64_forms(data: bytes) -> set[str]:
    """What base64 makes of it wherever it begins, without the letters that depend on its neighbours as
    well.
    """
    return {
        encode(bytes(before) + data).decode()[(before * 8 + 5) // 6 : (before + len(data)) * 8 // 6]
        for encode in (b64encode, urlsafe_b64encode)
        for before in range(3)
    }


# --- views of a text
# ----------------------------------------------------------------------------------------------------------


def _fold(text: str) -> str:
    """The text without its case, letter for letter. A plus sign is a space in a form (HTML)."""
    return (
        text.replace("\u0130", "i").lower().replace("+", " ").replace("ς", "σ")
    )  # U+0130 alone becomes two letters


def _grams(text: str) -> Iterator[str]:
    return map("".join, zip(*(text[start:] for start in range(_GRAM)), strict=False))


def _places(text: str, form: str) -> Iterator[tuple[int, int]]:
    at = text.find(form)
    while at >= 0:
        yield at, at + len(form)
        at = text.find(form, at + len(form))


def _widened(text: str, first: int, last: int) -> tuple[int, int]:
    """With the letter on each side, which may hold some bits of the secret too."""
    before, after = _BEFORE.match(text, max(0, first - 1), first), _AFTER.match(text, last)
    return (before.start() if before else first), (after.end() if after else last)


def _decode(text: str, escapes: re.Pattern[str]) -> tuple[str, list[int]]:
    """The text with these escapes undone, and where each letter of that begins in the text, and its end."""
    letters: list[str] = []
    starts: list[int] = []
    at = 0
    for match in escapes.finditer(text):
        meant = _meant(match)
        letters += (text[at : match.start()], meant)
        starts += range(at, match.start())
        starts += accumulate(_widths(match[0], meant), initial=match.start())
        starts.pop()
        at = match.end()
    starts += range(at, len(text) + 1)
    return "".join((*letters, text[at:])), starts


def _origin(starts: list[int], first: int, last: int) -> tuple[int, int]:
    """Where letters of the decoded text come from; an escape that stands for several letters goes whole."""
    end = starts[last - 1]
    return starts[first], next(start for start in starts[last:] if start > end)


def _meant(match: re.Match[str]) -> str:
    """The letters that an escape stands for."""
    escape = match[0]
    if escape[0] == "%":
        return bytes.fromhex(escape.replace("%", "")).decode("utf-8", "surrogateescape")
    if escape[0] == "&":
        return html.unescape(escape)
    if escape[1] == "u":
        return bytes.fromhex(escape.replace("\\u", "")).decode("utf-16-be", "surrogatepass")
    return (
        _bytes_meant(bytes.fromhex(escape.replace("\\x", "")))
        if escape[1] == "x"
        else _LETTERS.get(escape[1], escape[1])
    )


def _bytes_meant(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _widths(escape: str, meant: str) -> Iterator[int]:
    """How much of an escape each of its letters takes."""
    if escape[0] == "%":
        return (3 * len(letter.encode("utf-8", "surrogateescape")) for letter in meant)
    if escape.startswith("\\u"):
        return (6 * (1 + (letter > "\uffff")) for letter in meant)
    if escape.startswith("\\x"):
        alone = len(meant) * 4 == len(escape)  # each byte is a letter
        return (4 if alone else 4 * len(letter.encode()) for letter in meant)
    return iter((*(0 for _ in meant[1:]), len(escape)))
