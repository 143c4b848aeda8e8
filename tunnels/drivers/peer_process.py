"""Which process is at the other end of a unix socket, and whether it is one that we have started, or one
of those.
"""

from __future__ import annotations

import os
import socket
import struct

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


def peer(connection: socket.socket) -> int:
    """The process that has connected."""
    return int(
        _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[
            0
        ]
    )


def descends(pid: int) -> bool:
    """The living process has us among its parents."""
    while pid > 0:
        if pid == os.getpid():
            return True
        pid = _parent(pid)
    return False


def _parent(pid: int) -> int:
    """0: there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read()
    except OSError:
        return 0
    return int(fields[fields.rindex(b")") + 2 :].split()[1])
