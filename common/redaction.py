"""Finds secrets in text, also encoded ones, and replaces them by a mask. Pure.

A secret is found in any case; percent-encoded (RFC 3986), form-encoded, escaped as in JSON or HTML, and in
any mixture of these; in hexadecimal; and in base64 (RFC 4648), also as a part of what was encoded, such as
`user:password` in HTTP Basic authentication (RFC 7617). The rest of the text is not changed.
"""

from __future__ import annotations

import html
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate

MIN_SECRET_CHARS = 4  # shorter ones are not masked: they would hide half of every line
_MAX_ESCAPE_CHARS = 6  # for one character, as in \u0041
_PREFIX_CHARS = 4  # of a form, looked up before the whole form is searched for
_MAX_FORMS_WITHOUT_INDEX = 40  # so many forms are searched for one by one, without looking up their prefixes

# Escape sequences by their first character, which makes the search quick; `B` is the first hexadecimal digit
# of a byte.
_ESCAPES = {
    "%": r"%[B][0-9A-Fa-f](?:%[B][0-9A-Fa-f])*",
    "\\": r"\\(?:u[0-9A-Fa-f]{4}(?:\\u[0-9A-Fa-f]{4})*|x[B][0-9A-Fa-f](?:\\x[B][0-9A-Fa-f])*|[^ux])",
    "&": r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});",
}
_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "0": "\0"}
_BEFORE = re.compile(r"[A-Za-z0-9+/_-]?\Z")
_AFTER = re.compile(r"[A-Za-z0-9+/_-]?=*")


class _Decodings:
    """The ways in which a text can be decoded: by each kind of escape alone, and by all of them at once."""

    def __init__(self, first_digits: str) -> None:
        """`first_digits`: first hexadecimal digits of the bytes that matter, as a regex class."""
        patterns = {sign: pattern.replace("B", first_digits) for sign, pattern in _ESCAPES.items()}
        self._alone = {sign: re.compile(pattern) for sign, pattern in patterns.items()}
        self._mixed = re.compile("|".join(patterns.values()))

    def of(self, text: str) -> tuple[re.Pattern[str], ...]:
        """Those that change this text."""
        found = [pattern for sign, pattern in self._alone.items() if sign in text and pattern.search(text)]
        return (*found, self._mixed) if len(found) > 1 else tuple(found)


_ASCII_BYTES = _Decodings("0-7")  # enough while all secrets are ASCII: binary output is full of other bytes
_ALL_BYTES = _Decodings("0-9A-Fa-f")


@dataclass(frozen=True, slots=True)
class _Forms:
    """The forms of all secrets: `folded` match in any case, `encoded` exactly."""

    folded: frozenset[str] = frozenset()
    encoded: frozenset[str] = frozenset()
    prefixes: frozenset[str] = frozenset()  # of both, `_PREFIX_CHARS` long

    def found(self, text: str) -> bool:
        """True if one of them is in the text."""
        folded = _fold(text)
        many = len(self.folded) + len(self.encoded) > _MAX_FORMS_WITHOUT_INDEX
        if many and self.prefixes.isdisjoint({*_substrings(text), *_substrings(folded)}):
            return False
        return any(form in folded for form in self.folded) or any(form in text for form in self.encoded)

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Start and end of each occurrence."""
        folded = _fold(text)
        for form in self.folded:
            yield from _occurrences(folded, form)
        for form in self.encoded:
            yield from (_widened(text, *place) for place in _occurrences(text, form))


@dataclass(slots=True)
class Redactor:
    """Replaces secrets in text. Thread-safe."""

    mask: str
    longest: int = 0  # characters of the longest form of a secret
    _forms: _Forms = field(default_factory=_Forms)
    _decodings: _Decodings = _ASCII_BYTES

    def add(self, secrets: Iterable[str]) -> None:
        """Mask these too from now on, each line by itself, but not the BEGIN and END lines of PEM
        (RFC 7468).
        """
        parts = {
            part for secret in secrets for part in _parts(secret.strip()) if len(part) >= MIN_SECRET_CHARS
        }
        folded = self._forms.folded.union(*(_folded_forms(part) for part in parts))
        encoded = self._forms.encoded.union(*(_base64_forms(part.encode(errors="replace")) for part in parts))
        self.longest = max(self.longest, *(_MAX_ESCAPE_CHARS * len(part) for part in parts), 0)
        if not all(part.isascii() for part in parts):
            self._decodings = _ALL_BYTES
        self._forms = _Forms(folded, encoded, frozenset(form[:_PREFIX_CHARS] for form in folded | encoded))

    def finds(self, text: str) -> bool:
        """True if there is something to mask."""
        forms = self._forms
        return forms.found(text) or any(
            forms.found(escapes.sub(_unescape, text)) for escapes in self._decodings.of(text)
        )

    def text(self, text: str) -> str:
        """The text with every secret replaced."""
        if not self.finds(text):
            return text
        spans = list(self._forms.spans(text))
        for escapes in self._decodings.of(text):
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


def _parts(secret: str) -> set[str]:
    """The secret and its lines."""
    lines = {line.strip() for line in secret.splitlines()}
    return {secret, *(line for line in lines if not line.startswith("-----"))}


def _folded_forms(part: str) -> set[str]:
    return {_fold(part), part.encode(errors="replace").hex()}


def _base64_forms(data: bytes) -> set[str]:
    """The base64 digits of it at each of the three alignments, without those that depend on its neighbours
    too.
    """
    return {
        encode(bytes(before) + data).decode()[(before * 8 + 5) // 6 : (before + len(data)) * 8 // 6]
        for encode in (b64encode, urlsafe_b64encode)
        for before in range(3)
    }


# --- decoding


def _fold(text: str) -> str:
    """The text in lower case, of the same length. `+` becomes a space (application/x-www-form-urlencoded)."""
    one_to_one = text.replace("\u0130", "i")  # the only letter that `lower` makes two of
    return one_to_one.lower().replace("+", " ").replace("ς", "σ")


def _substrings(text: str) -> Iterator[str]:
    """All substrings of `_PREFIX_CHARS` characters."""
    return map("".join, zip(*(text[start:] for start in range(_PREFIX_CHARS)), strict=False))


def _occurrences(text: str, form: str) -> Iterator[tuple[int, int]]:
    at = text.find(form)
    while at >= 0:
        yield at, at + len(form)
        at = text.find(form, at + len(form))


def _widened(text: str, first: int, last: int) -> tuple[int, int]:
    """With the base64 digit on each side, which may hold some bits of the secret too."""
    before, after = _BEFORE.match(text, max(0, first - 1), first), _AFTER.match(text, last)
    return (before.start() if before else first), (after.end() if after else last)


def _decode(text: str, escapes: re.Pattern[str]) -> tuple[str, list[int]]:
    """The decoded text, and the offset in the original of each of its characters and of its end."""
    letters: list[str] = []
    starts: list[int] = []
    at = 0
    for match in escapes.finditer(text):
        decoded = _unescape(match)
        letters += (text[at : match.start()], decoded)
        starts += range(at, match.start())
        starts += accumulate(_widths(match[0], decoded), initial=match.start())
        starts.pop()
        at = match.end()
    starts += range(at, len(text) + 1)
    return "".join((*letters, text[at:])), starts


def _origin(starts: list[int], first: int, last: int) -> tuple[int, int]:
    """The span in the original of a span of the decoded text, in whole escapes."""
    end = starts[last - 1]
    return starts[first], next(start for start in starts[last:] if start > end)


def _unescape(match: re.Match[str]) -> str:
    """The characters that an escape stands for."""
    escape = match[0]
    if escape[0] == "%":
        return bytes.fromhex(escape.replace("%", "")).decode("utf-8", "surrogateescape")
    if escape[0] == "&":
        return html.unescape(escape) or _noncharacter(escape)
    if escape[1] == "u":
        return bytes.fromhex(escape.replace("\\u", "")).decode("utf-16-be", "surrogatepass")
    if escape[1] == "x":
        return _decode_bytes(bytes.fromhex(escape.replace("\\x", "")))
    return _LETTERS.get(escape[1], escape[1])


def _noncharacter(escape: str) -> str:
    """The character of a numeric reference that `html.unescape` leaves out."""
    digits = escape[2:].rstrip(";")
    return chr(int(digits[1:], 16) if digits[0] in "xX" else int(digits))


def _decode_bytes(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _widths(escape: str, decoded: str) -> Iterator[int]:
    """How many characters of an escape each of its decoded characters takes."""
    if escape[0] == "%":
        return (3 * len(letter.encode("utf-8", "surrogateescape")) for letter in decoded)
    if escape.startswith("\\u"):
        return (6 * (1 + (letter > "\uffff")) for letter in decoded)
    if escape.startswith("\\x"):
        alone = len(decoded) * 4 == len(escape)  # each byte is a letter
        return (4 if alone else 4 * len(letter.encode()) for letter in decoded)
    return iter((*(0 for _ in decoded[1:]), len(escape)))
