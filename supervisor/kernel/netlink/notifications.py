"""Netlink notifications as hints: something of this sort changed, and it was not us. What is there now
must be read.

The kernel says nothing when routes vanish with their device or its last address, so those count as hints
about routes too.
"""

from __future__ import annotations

import asyncio
import enum
import socket
from collections.abc import Callable, Iterable

from supervisor.core.network.layout import MAIN_TABLE
from supervisor.kernel.netlink.codec import attributes, messages
from supervisor.kernel.nft.ruleset import TABLE
from supervisor.kernel.route.messages import PROTOCOL


class KernelPart(enum.Enum):
    """A part of the kernel's state that can be read by itself."""

    DEVICES = "devices"
    ADDRESSES = "addresses"  # and with them routes: those of ours that go with an interface's last address
    ROUTES = "routes"
    RULES = "rules"
    TABLE = "table"
    OTHERS = "others"  # what other programs have there and packets of ours may meet


EVERYTHING = frozenset(KernelPart) - {KernelPart.OTHERS}
Heard = Callable[[], None]

_NETLINK_NETFILTER = 12
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_SO_RCVBUFFORCE = 33
BUFFER = 4 << 20  # bytes of unread notifications
_READ = 1 << 16
_BURST = 64  # datagrams in one go, so that a flood cannot hold up the loop
_ROUTE_GROUPS = (
    1,
    5,
    7,
    8,
    9,
    11,
    19,
    24,
    25,
)  # link; IPv4 address, route, rule; IPv6 the same; settings of both
_NFTABLES_GROUP = 7
_DEVICES, _ADDRESSES, _ROUTES, _RULES = (
    (16, 17, 80),
    (20, 21),
    (24, 25),
    (32, 33),
)  # 80: rp_filter or forwarding, for one
_ROUTE_TABLE, _ROUTE_PROTOCOL = 4, 5  # offsets in struct rtmsg
_NFGENMSG = 4  # bytes before the attributes
_NEW_GENERATION, _PROGRAM = 15, 3
_NOBODY = (0, 0, b"")


def nobody() -> None:
    """Takes no notice."""


class Notifications:
    """Listens to the kernel. `hint` is called with the parts that may have changed, never for our own doing.

    `ours` gives the netlink addresses of our own sockets. After lost notifications everything may have
    changed. `heard` is called whenever somebody else has changed something at all, also what is no part of
    ours and may only be in its way.
    """

    def __init__(
        self,
        hint: Callable[[frozenset[KernelPart]], None],
        ours: Callable[[], Iterable[int]],
        heard: Heard = nobody,
        buffer: int = BUFFER,
    ) -> None:
        self._heard = heard
        self._author = ""  # the program that changed our table since somebody asked
        self._touched = False  # our table, by the transaction whose messages are being read
        self._hint = hint
        self._ours = ours
        self._buffer = buffer
        self._sockets: list[socket.socket] = []

    def open(self) -> None:
        """Listen from now on. PermissionError without CAP_NET_ADMIN."""
        self._listen(socket.NETLINK_ROUTE, _ROUTE_GROUPS, self._routing)
        self._listen(_NETLINK_NETFILTER, (_NFTABLES_GROUP,), self.nftables)

    def take_author(self) -> str:
        """The program that last changed our table since this was last asked; empty when nobody did."""
        author, self._author = self._author, ""
        return author

    def close(self) -> None:
        """Listen no more."""
        for sock in self._sockets:
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()
        self._sockets.clear()

    def _listen(
        self, protocol: int, groups: Iterable[int], understand: Callable[[int, bytes], KernelPart | None]
    ) -> None:
        sock = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol
        )
        self._sockets.append(sock)
        sock.bind((0, 0))
        for group in groups:
            sock.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, self._buffer)
        asyncio.get_running_loop().add_reader(sock, self._read, sock, understand)

    def _read(self, sock: socket.socket, understand: Callable[[int, bytes], KernelPart | None]) -> None:
        parts: set[KernelPart] = set()
        ours = set(self._ours())
        for _ in range(_BURST):
            try:
                data = sock.recv(_READ)
            except BlockingIOError:
                break
            except OSError:
                parts |= EVERYTHING  # ENOBUFS: notifications were lost; the socket goes on working
                continue
            # A datagram is about one change, and in bulk it is ours that fill the socket.
            if next(iter(messages(data)), _NOBODY)[1] not in ours:
                parts |= {part for kind, _, body in messages(data) if (part := understand(kind, body))}
        if parts:
            self._heard()
        if parts & EVERYTHING:
            self._hint(frozenset(parts & EVERYTHING))

    @staticmethod
    def _routing(kind: int, body: bytes) -> KernelPart | None:
        if kind in _DEVICES:
            return KernelPart.DEVICES
        if kind in _ADDRESSES:
            return KernelPart.ADDRESSES
        if kind in _ROUTES and body[_ROUTE_PROTOCOL] == PROTOCOL:
            return KernelPart.ROUTES
        if kind in _ROUTES and body[_ROUTE_TABLE] != MAIN_TABLE:
            return KernelPart.OTHERS
        return KernelPart.RULES if kind in _RULES else None

    def nftables(self, kind: int, body: bytes) -> KernelPart | None:
        """The part that a message is about. Every object names its table first, the last message of a
        transaction names the program.

        It is that last one which counts: on a busy machine the program may be stopped between the two, for
        longer than a reading takes.
        """
        named = dict(attributes(body[_NFGENMSG:]))
        if kind & 0xFF != _NEW_GENERATION:
            ours = named.get(1) == TABLE.encode() + b"\x00"
            self._touched |= ours
            return None if ours else KernelPart.OTHERS
        touched, self._touched = self._touched, False
        if not touched:
            return None
        self._author = named.get(_PROGRAM, b"").rstrip(b"\x00").decode(errors="replace")
        return KernelPart.TABLE
