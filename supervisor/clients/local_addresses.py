"""The addresses of this host from which a client's connections come, read from /proc (proc(5))."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator, Set
from ipaddress import IPv6Address, ip_address

from supervisor.clients import processes
from tunnels.networks import IPAddress

_TABLES = ("tcp", "tcp6", "udp", "udp6")
_SOCKET = "socket:["  # the target of a descriptor's link: socket:[INODE]


def local_addresses(pid: int) -> frozenset[IPAddress]:
    """Of the connected TCP and UDP sockets of the process tree below `pid`. A socket without a peer takes
    another source by itself. What may not be read is left out.
    """
    tree = [pid]
    for member in tree:  # which grows during the loop
        tree += processes.children(member).difference(tree)
    inodes = {inode for member in tree for inode in _sockets(member)}
    return frozenset(address for name in _TABLES for address in _connected(f"/proc/{pid}/net/{name}", inodes))


def _sockets(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
                if target.startswith(_SOCKET):
                    yield target[len(_SOCKET) : -1]


def _connected(path: str, inodes: Set[str]) -> Iterator[IPAddress]:
    with contextlib.suppress(OSError), open(path, encoding="ascii") as table:
        next(table, None)  # the header
        for line in table:
            _, local, remote, _, _, _, _, _, _, inode, *_ = line.split()
            if inode in inodes and not remote.endswith(":0000"):
                yield _address(local)


def _address(text: str) -> IPAddress:
    """The kernel prints words of 32 bits in the order of this machine."""
    digits = text.partition(":")[0]
    words = [int(digits[place : place + 8], 16) for place in range(0, len(digits), 8)]
    address = ip_address(struct.pack(f"={len(words)}I", *words))
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
