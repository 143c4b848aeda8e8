"""Netlink (netlink(7), linux/netlink.h): the codec of messages and attributes, and a blocking socket.

    NetlinkRequest -> NetlinkSocket -> kernel -> messages() -> NetlinkMessage -> attributes()

The only code that frames netlink: `supervisor.kernel.netlink.socket` is the same socket for asyncio. Nothing
heavy is imported here, because each driver of a tunnel starts with it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

GENERIC, NETFILTER, SOCK_DIAG = 16, 12, 4  # protocols beside socket.NETLINK_ROUTE
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300  # flags of a request: NLM_F_*
REPLACE, EXCLUSIVE, CREATE, APPEND = 0x100, 0x200, 0x400, 0x800
DUMP_INTERRUPTED, WITH_TEXT = 0x10, 0x200  # flags of an answer: NLM_F_DUMP_INTR, NLM_F_ACK_TLVS
ERROR, DONE = 2, 3  # types of an answer: NLMSG_ERROR (0 in it is success), NLMSG_DONE
NESTED = 0x8000  # NLA_F_NESTED, in the type of an attribute: its data are attributes
CAP_ACK, EXT_ACK, STRICT_CHECK = 10, 11, 12  # options of a socket: NETLINK_CAP_ACK, ...
SOL_NETLINK = 270
ANSWER_SECONDS = 5.0  # for any single answer of the kernel
READ_BYTES = 1 << 17  # of one datagram from the kernel
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33  # socket(7)

_ADD_MEMBERSHIP = 1
_ATTRIBUTE_TYPE_MASK = 0x3FFF  # NLA_TYPE_MASK
_ERROR_TEXT = 1  # NLMSGERR_ATTR_MSG
_MESSAGE = struct.Struct("=IHHII")  # struct nlmsghdr
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr
_LAST_NUMBER = 1 << 31  # sequence numbers start over


class NetlinkRequest(NamedTuple):
    """A message to the kernel without its header."""

    kind: int
    flags: int
    body: bytes


class NetlinkMessage(NamedTuple):
    """A message of the kernel without its header."""

    kind: int
    flags: int
    number: int  # of the request that it answers; 0: a notification
    sender: int  # netlink address (port id) of the socket that caused it
    body: bytes


def pack(request: NetlinkRequest, number: int) -> bytes:
    """The message with its header, padded."""
    kind, flags, body = request
    return _MESSAGE.pack(_MESSAGE.size + len(body), kind, REQUEST | flags, number, 0) + aligned(body)


def messages(data: bytes) -> Iterator[NetlinkMessage]:
    """Each message in a datagram."""
    at, size = 0, _MESSAGE.size
    while at + size <= len(data):
        length, kind, flags, number, sender = _MESSAGE.unpack_from(data, at)
        if length < size:
            return
        yield NetlinkMessage(kind, flags, number, sender, data[at + size : at + length])
        at += length + 3 & ~3


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and data of each attribute."""
    at = 0
    while at + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4:
            return
        yield kind & _ATTRIBUTE_TYPE_MASK, data[at + 4 : at + length]
        at += length + 3 & ~3


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTRIBUTE.pack(4 + len(data), kind) + aligned(data)


def text_attribute(kind: int, text: str) -> bytes:
    """An attribute that is a name: a string that ends with a zero byte."""
    return attribute(kind, text.encode() + b"\0")


def aligned(data: bytes) -> bytes:
    """The data, padded to four bytes."""
    return data + bytes(-len(data) % 4)


def text(data: bytes | None) -> str:
    """A name in an attribute; empty where there is no such attribute."""
    return (data or b"").rstrip(b"\0").decode(errors="replace")


def native(data: bytes | None) -> int:
    """A number in host order; 0 where there is no such attribute."""
    return int.from_bytes(data or b"", sys.byteorder)


def refusal(answer: NetlinkMessage) -> OSError | None:
    """The error in an answer of type ERROR or DONE, with the kernel's own text where it gives one; None:
    success.
    """
    code = -int.from_bytes(answer.body[:4], sys.byteorder, signed=True)
    if code <= 0:
        return None
    # With NETLINK_CAP_ACK only the header of the request stands between errno and text.
    texts = dict(attributes(answer.body[4 + _MESSAGE.size :])) if answer.flags & WITH_TEXT else {}
    return OSError(code, text(texts.get(_ERROR_TEXT)) or os.strerror(code))


class NetlinkSocket:
    """A netlink socket in the network namespace of the calling thread.

    Every refusal is an OSError with the kernel's errno (PermissionError, FileExistsError, ...); TimeoutError:
    no answer.
    """

    def __init__(
        self,
        protocol: int = socket.NETLINK_ROUTE,
        *,
        timeout: float | None = ANSWER_SECONDS,
        groups: Iterable[int] = (),
        options: Iterable[int] = (),
        buffer_bytes: int = 0,
    ) -> None:
        """`timeout`: seconds, 0 never blocks; `groups`: whose notifications come in; `buffer_bytes`: of the
        largest datagram either way, where the kernel lets us.
        """
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._next = 1  # sequence number
        try:
            self.socket.settimeout(timeout)
            self.socket.bind((0, 0))
            for option in options:
                self.socket.setsockopt(SOL_NETLINK, option, 1)
            self.join(*groups)
            with contextlib.suppress(PermissionError):  # the first request will say it better
                for option in (SO_SNDBUFFORCE, SO_RCVBUFFORCE) if buffer_bytes else ():
                    self.socket.setsockopt(socket.SOL_SOCKET, option, buffer_bytes)
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> NetlinkSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """For select(2)."""
        return self.socket.fileno()

    def close(self) -> None:
        """Close it; a second time does nothing."""
        self.socket.close()

    def join(self, *groups: int) -> None:
        """Get the notifications of these groups from now on."""
        for group in groups:
            self.socket.setsockopt(SOL_NETLINK, _ADD_MEMBERSHIP, group)

    @property
    def port(self) -> int:
        """Its netlink address: notifications that carry it were caused by requests of this socket."""
        return int(self.socket.getsockname()[0])

    def frame(self, requests: Sequence[NetlinkRequest]) -> tuple[int, bytes]:
        """The requests as one datagram, and the sequence number of the first of them."""
        first = self._next if self._next < _LAST_NUMBER else 1
        self._next = first + len(requests)
        return first, b"".join([pack(request, number) for number, request in enumerate(requests, first)])

    def send(self, *requests: NetlinkRequest) -> int:
        """Send them in one datagram; the sequence number of the first."""
        first, datagram = self.frame(requests)
        self.socket.send(datagram)
        return first

    def receive(self) -> Iterator[NetlinkMessage]:
        """The messages of the next datagram. ENOBUFS: notifications were lost; the socket goes on working."""
        return messages(self.socket.recv(READ_BYTES))

    def request(self, kind: int, flags: int, body: bytes) -> list[bytes]:
        """The bodies of what the kernel answers: to DUMP many, to a question one, to an order none."""
        return list(self.answers(kind, flags, body))

    def answers(self, kind: int, flags: int, body: bytes) -> Iterator[bytes]:
        """`request`, one answer after the other. To stop early, close the socket."""
        number = self.send(NetlinkRequest(kind, ACK | flags, body))
        while True:
            for message in self.receive():
                if message.number != number:
                    continue  # a notification
                if message.kind in (ERROR, DONE):
                    if (error := refusal(message)) is not None:
                        raise error
                    return
                yield message.body
