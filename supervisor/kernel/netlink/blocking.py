"""Plain blocking netlink for a single look at the kernel: one request, and everything that comes back."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

from supervisor.kernel.errors import TIMEOUT

REQUEST, ACK, DUMP, CREATE = 0x1, 0x4, 0x300, 0x400  # flags of a message
ERROR, DONE = 2, 3  # types of an answer
_HEADER = struct.Struct("=IHHII")
_LARGEST = 1 << 18  # bytes of one answer
_SOL_NETLINK, _STRICT = 270, 12  # NETLINK_GET_STRICT_CHK: the kernel looks at the filters of a dump


def opened(protocol: int, strict: bool = False) -> socket.socket:
    """A netlink socket in the network namespace of the calling thread."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        sock.bind((0, 0))
        sock.settimeout(TIMEOUT)
        if strict:
            sock.setsockopt(_SOL_NETLINK, _STRICT, 1)
    except OSError:
        sock.close()
        raise
    return sock


def message(kind: int, flags: int, body: bytes, number: int) -> bytes:
    """One message."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, number, 0) + body


def dump(sock: socket.socket, kind: int, body: bytes) -> Iterator[bytes]:
    """The bodies of all objects. OSError: the kernel refuses. To stop early, close the socket."""
    sock.send(message(kind, REQUEST | DUMP, body, 1))
    while True:
        for answer, _, content in received(sock):
            if answer == DONE:
                return
            if answer == ERROR:
                code = -struct.unpack_from("=i", content)[0]
                raise OSError(code, os.strerror(code))
            yield content


def one(sock: socket.socket, kind: int, body: bytes) -> bytes:
    """The body of the one answer. OSError: the kernel refuses."""
    sock.send(message(kind, REQUEST, body, 1))
    for answer, _, content in received(sock):
        if answer == ERROR:
            code = -struct.unpack_from("=i", content)[0]
            raise OSError(code, os.strerror(code))
        return content
    raise OSError("no answer")


def received(sock: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    """Type, sequence number and body of each message in the next datagram."""
    data = sock.recv(_LARGEST)
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, number, _ = _HEADER.unpack_from(data, at)
        yield kind, number, data[at + _HEADER.size : at + length]
        at += max(_HEADER.size, -(-length // 4) * 4)
