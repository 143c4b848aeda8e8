"""Makes untrusted text safe to show: on a terminal, on a page, in a log, in an incident.

Nothing in it moves a cursor, changes a colour, hides, reorders or imitates other text. Code that decodes text
of a client (JSON, base64) cleans it after decoding, because an escape sequence may be written as ordinary
letters before.
"""

from __future__ import annotations

import re

_ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b\]|\x9d)[^\x07\x1b\n\x9c]*(?:\x07|\x1b\\|\x9c)?|\x1b[ -/]*[0-~]"
)
_INVISIBLE = (
    (0x00, 0x08),
    (0x0B, 0x1F),
    (0x7F, 0x9F),  # C0 but for tab and newline, DEL, C1
    (0x200B, 0x200F),
    (0x2028, 0x202E),
    (0x2060, 0x206F),  # zero width, direction, separators of lines, joiners
    (0xFEFF, 0xFEFF),
    (0xFFF0, 0xFFFB),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
    (0xAD, 0xAD),
    (0x34F, 0x34F),
    (0x61C, 0x61C),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x115F, 0x1160),
    (0x3164, 0x3164),
    (0xFFA0, 0xFFA0),
    (0x1BCA0, 0x1BCA3),
    (0xFE00, 0xFE0F),  # variation selectors
)
_SURROGATES = (0xD800, 0xDFFF)  # cannot be encoded
_TABLE: dict[int, str | None] = {
    **{code: None for first, last in _INVISIBLE for code in range(first, last + 1)},
    **dict.fromkeys(range(_SURROGATES[0], _SURROGATES[1] + 1), "\N{REPLACEMENT CHARACTER}"),
    **{
        0xDC00 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)
    },  # undecodable bytes after surrogateescape
}
_UNSAFE = re.compile(
    "[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in (*_INVISIBLE, _SURROGATES)) + "]"
)
_UNSAFE_ASCII = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def clean(text: str) -> str:
    """The text without escape sequences and invisible characters; tab and newline stay. An undecodable byte
    becomes \\xNN.
    """
    unsafe = _UNSAFE_ASCII if text.isascii() else _UNSAFE
    if unsafe.search(text) is None:  # most text is clean, and what follows is slow
        return text
    return _ESCAPE.sub("", text).translate(_TABLE)


def one_line(text: str) -> str:
    """The clean text with each run of whitespace as one space, so that it cannot pass for a line
    of its own.
    """
    return " ".join(clean(text).split())
