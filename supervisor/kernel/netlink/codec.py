"""The framing of netlink: messages and attributes are a length, a type, data, and padding to four bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterator

NESTED = 0x8000  # flag in an attribute's type: its data are attributes
_TYPE = 0x3FFF
_HEADER = struct.Struct("=IHHII")


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, sender and body of each message in a datagram."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, _, sender = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, sender, data[at + _HEADER.size : at + length]
        at += _padded(length)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and data of each attribute."""
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            return
        yield kind & _TYPE, data[at + 4 : at + length]
        at += _padded(length)


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded."""
    return struct.pack("=HH", 4 + len(data), kind) + aligned(data)


def aligned(data: bytes) -> bytes:
    """The data, padded."""
    return data + bytes(_padded(len(data)) - len(data))


def _padded(length: int) -> int:
    return -(-length // 4) * 4
