"""Identifies the process at the other end of a unix socket, and checks whether it is our child or a
descendant.
"""

from __future__ import annotations

import os
import socket
import struct

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


def peer_pid(connection: socket.socket) -> int:
    """The pid of the process that has connected (SO_PEERCRED, unix(7))."""
    return int(
        _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[
            0
        ]
    )


def is_descendant(pid: int) -> bool:
    """The process is alive, and this process is it or one of its ancestors."""
    while pid > 0:
        if pid == os.getpid():
            return True
        pid = _parent(pid)
    return False


def _parent(pid: int) -> int:
    """Its parent; 0: there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read()
    except OSError:
        return 0
    return int(fields[fields.rindex(b")") + 2 :].split()[1])
