"""Connection tracking over netlink: the entries with a mark, and the end of their memory. What an entry
means is its reader's business.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

from supervisor.kernel.errors import TIMEOUT
from supervisor.kernel.netlink.codec import attribute, messages

NEW, _GET, DELETE = 0x100, 0x101, 0x102  # messages of connection tracking
MARK = 8  # attribute of an entry
_MARK_MASK = 21
_REQUEST, _DUMP = 0x1, 0x300
_ERROR, _DONE = 2, 3
_NETLINK_NETFILTER = 12
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_UPDATES, _ENDS = 2, 3  # groups of notifications
_HEADER = struct.Struct("=IHHII")
_READ = 1 << 17
_WHOLE = 0xFFFF_FFFF


def opened() -> socket.socket:
    """A socket in the network namespace of the calling thread. OSError."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    sock.settimeout(TIMEOUT)
    return sock


def listening() -> socket.socket:
    """A socket that does not block and gets a notification whenever a flow changes its state or ends.
    OSError without CAP_NET_ADMIN.
    """
    sock = opened()
    sock.setblocking(False)
    sock.bind((0, 0))
    for group in (_UPDATES, _ENDS):
        sock.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    return sock


def entries(sock: socket.socket, mark: int, mask: int = _WHOLE) -> Iterator[bytes]:
    """The bodies of all entries with this mark, as far as the mask goes; the kernel chooses them. OSError."""
    sock.send(frame(_GET, _DUMP, socket.AF_UNSPEC, _marked(mark, mask)))
    while True:
        for kind, _, body in messages(sock.recv(_READ)):
            if kind == _DONE:
                return
            if kind == _ERROR:
                code = -struct.unpack_from("=i", body)[0]
                raise OSError(code or errno.EIO, os.strerror(code))
            yield body


def forget(sock: socket.socket, mark: int, mask: int = _WHOLE) -> None:
    """End the memory of all flows with this mark, as far as the mask goes. OSError."""
    sock.send(frame(DELETE, 0, socket.AF_UNSPEC, _marked(mark, mask)))


def frame(kind: int, flags: int, family: int, body: bytes) -> bytes:
    """One message."""
    return (
        _HEADER.pack(_HEADER.size + 4 + len(body), kind, _REQUEST | flags, 1, 0)
        + bytes((family, 0, 0, 0))
        + body
    )


def _marked(mark: int, mask: int) -> bytes:
    return attribute(MARK, struct.pack(">I", mark)) + attribute(_MARK_MASK, struct.pack(">I", mask))
