"""The text of a customer's file, whatever its encoding: lines stay those of the file as it was sent.

bytes -> text_of -> text (UTF-8 or UTF-16, with or without a BOM; any line ends), or ProfileError
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tunnels.profiles import ProfileError
from tunnels.recognition import ProfileFormat, recognised_bytes, recognised_text

_BYTE_ORDER_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_UNDECODABLE = re.compile("[\udc80-\udcff]")
_HIGH_BYTES = re.compile(rb"[\x80-\xff]+")
# the umlauts and accents of Western Europe in DOS code page 850; elsewhere these bytes are punctuation
_CP850_LETTERS = frozenset(b"\x81\x82\x84\x8e\x94\x99\x9a\xe1")


def text_of(data: bytes, wanted: ProfileFormat, comments: str = "#") -> str:
    """The text, with \\n between lines. In comments, which begin with one of these characters, bytes that
    cannot be decoded do not matter. ProfileError: it is no text, or a file of another format; the sentence
    says what it is and what to do.
    """
    text = decoded(data, comments)
    if (found := recognised_text(text, wanted)) is not None:
        raise ProfileError(found.sentence, found.line)
    return text


def decoded(data: bytes, comments: str = "#") -> str:
    """The text of a file of any format. ProfileError: it is no text; see `text_of`."""
    if not data.strip():
        raise ProfileError("the file is empty; ask for it again", 1)
    if (said := recognised_bytes(data)) is not None:
        raise ProfileError(said, 1)
    return "\n".join(_readable(_decoded(data).split("\n"), comments))


def _decoded(data: bytes) -> str:
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            if encoding == "utf-8":
                data = data[len(mark) :]
                break
            try:
                return _with_newlines(data.decode(encoding))
            except UnicodeDecodeError:
                raise ProfileError(
                    f"the file begins as {encoding.upper()} text and is none; save it as UTF-8", 1
                ) from None
    if b"\0" in data[:4096]:
        raise ProfileError(
            "the file has NUL bytes: it is UTF-16 without a byte order mark, or no text; save it as UTF-8", 1
        )
    return _with_newlines(data.decode("utf-8", "surrogateescape"))


def _with_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _readable(lines: list[str], comments: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        bad = _UNDECODABLE.search(line)
        if bad is None:
            yield line
        elif _in_comment(line[: bad.start()], comments):
            yield _UNDECODABLE.sub("\N{REPLACEMENT CHARACTER}", line)
        else:
            raise ProfileError(
                f"this line is not UTF-8 text, but most likely {_probable_encoding(line)}; save the file as "
                "UTF-8",
                number,
            )


def _in_comment(before: str, comments: str) -> bool:
    """A comment has begun in this part of a line, not within a quotation."""
    begin = re.search(rf"(?:^|\s)[{re.escape(comments)}]", before)
    return begin is not None and before[: begin.start()].count('"') % 2 == 0


def _probable_encoding(line: str) -> str:
    runs = _HIGH_BYTES.findall(line.encode("utf-8", "surrogateescape"))
    if _CP850_LETTERS.issuperset(b"".join(runs)):
        return "DOS text (CP850)"
    if max(map(len, runs)) <= 2:  # single letters between ASCII ones
        return "Windows-1252 (or ISO 8859-1)"
    return "that of another script (Windows-1251, GBK, Shift JIS)"
