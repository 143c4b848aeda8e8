"""Questions and responses as bytes (RFC 1035, RFC 6891, RFC 8914), without a library: what is done for each
question has to take microseconds. Answers of customers are never read here (`names.answers`).
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

HEADER = struct.Struct("!HHHHHH")
_TYPE_CLASS = struct.Struct("!HH")
_OPT = struct.Struct("!BHHIH")
_RECORD = struct.Struct("!HHIH")
_TTL = struct.Struct("!I")
RESPONSE, TRUNCATED, RECURSION_WANTED, RECURSION_AVAILABLE = 0x8000, 0x0200, 0x0100, 0x0080
CHECKING_DISABLED, OPCODE, AUTHENTIC = 0x0010, 0x7800, 0x0020
DNSSEC_OK = 0x8000
IN, OPT = 1, 41
QUESTION = 12  # where the question begins
UDP_BYTES = 1232  # largest datagram that is sent or asked for (DNS flag day 2020)
PLAIN_UDP_BYTES = 512
MAX_NAME = 255
_POINTER_TO_QUESTION = b"\xc0\x0c"
_EXTENDED_ERROR = 15  # EDNS option code
_MAX_TEXT = 200  # bytes of the text of an extended error


class Rcode(enum.IntEnum):
    """Response codes (RFC 1035, 6891)."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


class ErrorCode(enum.IntEnum):
    """Info codes of extended errors (RFC 8914)."""

    OTHER = 0
    NOT_READY = 14
    FILTERED = 17
    PROHIBITED = 18
    NO_REACHABLE_AUTHORITY = 22
    NETWORK_ERROR = 23


class ExtendedError(NamedTuple):
    """Why there is no better answer."""

    code: ErrorCode
    text: str


class NameQuery(NamedTuple):
    """A query."""

    identifier: bytes  # 2
    flags: int
    asked: bytes  # the question section as it was sent
    name: bytes  # wire form in lower case
    kind: int  # QTYPE
    class_: int
    size: int  # bytes of the largest datagram for the answer
    edns: bool
    dnssec: bool  # DO


class Malformed(NamedTuple):
    """A query that gets an error only; it repeats nothing but the header."""

    identifier: bytes
    flags: int
    rcode: Rcode


class Record(NamedTuple):
    """A resource record of class IN."""

    owner: bytes  # wire form
    kind: int
    ttl: int
    data: bytes  # without compression


@dataclass(slots=True)
class NameAnswer:
    """What is answered to a question, whoever asks: the body follows the question section."""

    rcode: Rcode
    counts: tuple[int, int, int] = (0, 0, 0)  # answer, authority, additional
    body: bytes = b""
    ttls: tuple[int, ...] = ()  # where in the body TTLs stand
    error: ExtendedError | None = None
    lifetime: int = 0  # seconds for which it may be kept
    _aged: tuple[int, bytes] = field(default=(0, b""))

    def aged(self, seconds: int) -> bytes:
        """The body, with TTLs that are that much smaller."""
        if seconds <= 0 or not self.ttls:
            return self.body
        if self._aged[0] != seconds:
            body = bytearray(self.body)
            for place in self.ttls:
                (ttl,) = _TTL.unpack_from(body, place)
                _TTL.pack_into(body, place, max(0, ttl - seconds))
            self._aged = (seconds, bytes(body))
        return self._aged[1]


def read_question(data: bytes) -> NameQuery | Malformed | None:
    """The query in a message; None: it is none, and gets no answer."""
    if len(data) < QUESTION:
        return None
    _, flags, *counts = HEADER.unpack_from(data)
    if flags & RESPONSE:
        return None
    end = name_end(data, QUESTION)
    if flags & OPCODE or end is None or end + 4 > len(data) or counts[:3] != [1, 0, 0] or counts[3] > 1:
        return Malformed(data[:2], flags, Rcode.NOTIMP if flags & OPCODE else Rcode.FORMERR)
    kind, class_ = _TYPE_CLASS.unpack_from(data, end)
    known = _read_option(data, end + 4) if counts[3] else (PLAIN_UDP_BYTES, False)
    if isinstance(known, Rcode):
        return Malformed(data[:2], flags, known)
    asked, name = data[QUESTION : end + 4], data[QUESTION:end].lower()
    return NameQuery(data[:2], flags, asked, name, kind, class_, known[0], bool(counts[3]), known[1])


def _read_option(data: bytes, at: int) -> tuple[int, bool] | Rcode:
    """Largest datagram and DO of the OPT record that begins here, or what is wrong with it."""
    if len(data) < at + _OPT.size:
        return Rcode.FORMERR
    root, kind, size, extended, length = _OPT.unpack_from(data, at)
    if root or kind != OPT or at + _OPT.size + length > len(data):
        return Rcode.FORMERR
    if extended >> 16 & 0xFF:
        return Rcode.BADVERS
    return min(max(size, PLAIN_UDP_BYTES), UDP_BYTES), bool(extended & DNSSEC_OK)


def name_end(data: bytes, at: int) -> int | None:
    """Where the uncompressed name that begins here ends; None: there is none."""
    start = at
    try:
        while length := data[at]:
            if length > 63:
                return None
            at += length + 1
    except IndexError:
        return None
    return at + 1 if at + 1 - start <= MAX_NAME else None


def labels(name: bytes) -> list[bytes]:
    """The labels of a name in wire form, without the root."""
    found, at = [], 0
    while length := name[at]:
        found.append(name[at + 1 : at + 1 + length])
        at += length + 1
    return found


def wire_name(text: str) -> bytes:
    """A domain in its wire form."""
    parts = [label.encode("ascii") for label in text.split(".")] if text else []
    return b"".join(bytes([len(label)]) + label for label in parts) + b"\0"


def name_text(name: bytes) -> str:
    """A name for people and logs; letters that are none of a host name are escaped."""
    return b".".join(labels(name)).decode("ascii", "backslashreplace")


def render(
    question: bytes,
    rcode: Rcode,
    answer: Sequence[Record],
    authority: Sequence[Record] = (),
    additional: Sequence[Record] = (),
) -> NameAnswer:
    """The answer with these records; `question`: the name that they are compressed against."""
    body, ttls = bytearray(), []
    for record in (*answer, *authority, *additional):
        body += _POINTER_TO_QUESTION if record.owner.lower() == question.lower() else record.owner
        ttls.append(len(body) + 4)
        body += _RECORD.pack(record.kind, IN, record.ttl, len(record.data)) + record.data
    counts = (len(answer), len(authority), len(additional))
    return NameAnswer(rcode, counts, bytes(body), tuple(ttls))


def response(question: NameQuery, answer: NameAnswer, age: int = 0, *, stream: bool = False) -> bytes:
    """The message that answers a query, `age` seconds after the answer came."""
    body = answer.aged(age)
    counts, flags = answer.counts, RESPONSE | RECURSION_AVAILABLE
    flags |= question.flags & (RECURSION_WANTED | CHECKING_DISABLED)
    option = _option(answer.rcode, answer.error, dnssec=question.dnssec) if question.edns else b""
    if not stream and QUESTION + len(question.asked) + len(body) + len(option) > question.size:
        flags, counts, body = flags | TRUNCATED, (0, 0, 0), b""
    head = HEADER.pack(0, flags | answer.rcode & 0xF, 1, counts[0], counts[1], counts[2] + bool(option))
    return question.identifier + head[2:] + question.asked + body + option


def refusal(query: Malformed) -> bytes:
    """The message for a query that cannot be understood."""
    flags = RESPONSE | RECURSION_AVAILABLE | query.flags & (OPCODE | RECURSION_WANTED) | query.rcode & 0xF
    option = _option(query.rcode, None, dnssec=False) if query.rcode > 0xF else b""
    return query.identifier + HEADER.pack(0, flags, 0, 0, 0, bool(option))[2:] + option


def _option(rcode: Rcode, error: ExtendedError | None, *, dnssec: bool) -> bytes:
    data = b""
    if error is not None:
        text = error.text.encode()[:_MAX_TEXT].decode(errors="ignore").encode()
        data = struct.pack("!HHH", _EXTENDED_ERROR, len(text) + 2, error.code) + text
    flags = DNSSEC_OK if dnssec else 0
    return _OPT.pack(0, OPT, UDP_BYTES, rcode >> 4 << 24 | flags, len(data)) + data


def query(identifier: int, name: bytes, kind: int) -> bytes:
    """A query for a customer's server; `name` has the letters' case that its answer must repeat."""
    head = HEADER.pack(identifier, RECURSION_WANTED, 1, 0, 0, 1)
    return head + name + _TYPE_CLASS.pack(kind, IN) + _OPT.pack(0, OPT, UDP_BYTES, 0, 0)
