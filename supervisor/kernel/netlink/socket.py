"""A netlink socket: requests go out in one datagram, and what the kernel says to each of them comes back.

`bulk` and `nftables` make the requests. The kernel works while we send, so its answer is there as soon as
that has returned: a small exchange hands the loop over to nobody, because packets may wait for what comes
after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from pyroute2 import NetlinkError
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted

from supervisor.kernel.errors import TIMEOUT
from supervisor.kernel.netlink.codec import aligned, attributes

REQUEST, ACK, DUMP, REPLACE, EXCL, CREATE, APPEND = 0x1, 0x4, 0x300, 0x100, 0x200, 0x400, 0x800
_ERROR, _DONE = 2, 3
_INTERRUPTED, _WITH_TEXT, _TEXT = 0x10, 0x200, 1  # flags of an answer; NLMSGERR_ATTR_MSG
_HEADER = struct.Struct("=IHHII")
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT = 270, 10, 11, 12
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_SMALL = 1 << 12  # bytes of a datagram on which the kernel works for less than a millisecond
_LARGE = 1 << 16  # bytes on which it works for some
_READ = 1 << 16  # bytes of one answer
_LAST = 1 << 31  # sequence numbers begin anew

ReadT = TypeVar("ReadT")


class NetlinkRequest(NamedTuple):
    """A request to the kernel without its frame."""

    kind: int
    flags: int
    body: bytes


class Exchange:
    """One exchange at a time. Errors are NetlinkError (with the kernel's errno and text), OSError and
    TimeoutError.
    """

    def __init__(self, protocol: int, buffer: int) -> None:
        """`buffer`: bytes of the largest datagram, or of the answers to one."""
        self._protocol, self._buffer = protocol, buffer
        self._socket: socket.socket | None = None
        self._next = 1  # sequence number
        self._one = asyncio.Lock()

    def open(self) -> None:
        """Open the socket, in the network namespace of the calling thread."""
        self._socket = sock = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, self._protocol
        )
        sock.bind((0, 0))
        for option in (_CAP_ACK, _EXT_ACK, _STRICT):
            sock.setsockopt(_SOL_NETLINK, option, 1)
        with contextlib.suppress(PermissionError):  # the first request will say it better
            for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
                sock.setsockopt(socket.SOL_SOCKET, option, self._buffer)

    @property
    def port(self) -> int:
        """The netlink address of the socket."""
        return int(self._opened.getsockname()[0])

    def close(self) -> None:
        """Close the socket; a second time does nothing."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    async def talk(
        self, messages: Sequence[NetlinkRequest], ends: Sequence[int]
    ) -> list[NetlinkError | None]:
        """What the kernel says to each message; None: nothing, or that it is done.

        `ends`: the positions of those messages after the answer to which there is no other one.
        """
        said: list[NetlinkError | None] = [None] * len(messages)
        async with self._one, asyncio.timeout(TIMEOUT):
            first, over = await self._send(messages), False
            while not over:
                for kind, flags, number, body in _answers(await self._receive()):
                    if kind == _ERROR and first <= number < first + len(messages):
                        at = number - first
                        said[at] = _error(flags, body)
                        over = over or at in ends
        return said

    async def dump(self, message: NetlinkRequest, read: Callable[[bytes], ReadT | None]) -> list[ReadT]:
        """What `read` makes of each answer, except None. NetlinkDumpInterrupted: there were changes
        meanwhile.
        """
        found: list[ReadT] = []
        async with self._one, asyncio.timeout(TIMEOUT):
            number = await self._send([message])
            while True:
                data = await self._receive()
                if len(data) > _SMALL:
                    await asyncio.sleep(0)  # there are many, and all of them are there
                for kind, flags, answered, body in _answers(data):
                    if answered != number:
                        continue
                    if flags & _INTERRUPTED:
                        raise NetlinkDumpInterrupted
                    if kind == _DONE:
                        return found
                    if kind == _ERROR and (error := _error(flags, body)) is not None:
                        raise error
                    if (one := read(body)) is not None:
                        found.append(one)

    @property
    def _opened(self) -> socket.socket:
        assert self._socket is not None
        return self._socket

    async def _send(self, messages: Sequence[NetlinkRequest]) -> int:
        """Send them in one datagram; the sequence number of the first."""
        with contextlib.suppress(BlockingIOError):
            while self._opened.recv(_READ):  # what an exchange left that did not come to its end
                pass
        first = self._next if self._next < _LAST else 1
        self._next = first + len(messages)
        datagram = b"".join(
            _HEADER.pack(_HEADER.size + len(body), kind, REQUEST | flags, number, 0) + aligned(body)
            for number, (kind, flags, body) in enumerate(messages, first)
        )
        if len(datagram) > _LARGE:
            await asyncio.to_thread(self._opened.send, datagram)
        else:
            self._opened.send(datagram)
        if len(datagram) > _SMALL:
            await asyncio.sleep(0)
        return first

    async def _receive(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self._opened, _READ)


def _answers(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, sequence number and body of each message in a datagram."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, number, _ = _HEADER.unpack_from(data, at)
        yield kind, flags, number, data[at + _HEADER.size : at + length]
        at += max(_HEADER.size, length + 3 & ~3)


def _error(flags: int, body: bytes) -> NetlinkError | None:
    """The error in an answer; 0 is a success. With NETLINK_CAP_ACK only the header of the request comes
    between errno and text.
    """
    code = -int.from_bytes(body[:4], sys.byteorder, signed=True)
    if not code:
        return None
    texts = dict(attributes(body[4 + _HEADER.size :])) if flags & _WITH_TEXT else {}
    text = texts.get(_TEXT, b"").rstrip(b"\x00").decode(errors="replace")
    return NetlinkError(code, text or os.strerror(code))
