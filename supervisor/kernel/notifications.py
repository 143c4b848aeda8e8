"""Netlink notifications as hints that somebody else changed a part of the kernel's state. What it is now must
be read.

The kernel says nothing when routes vanish with their device or its last address, so those count as hints
about routes too.
"""

from __future__ import annotations

import asyncio
import enum
import socket
from collections.abc import Callable, Iterable, Iterator

from common.netlink import NETFILTER, NetlinkMessage, NetlinkSocket, attributes, text
from supervisor.core.network.layout import MAIN_TABLE
from supervisor.kernel.nft.messages import HEADER_BYTES, NEW_GENERATION, nft_kind
from supervisor.kernel.nft.ruleset import TABLE
from supervisor.kernel.route.messages import PROTOCOL


class KernelPart(enum.Enum):
    """A part of the kernel's state that can be read by itself."""

    DEVICES = "devices"
    ADDRESSES = "addresses"  # and with them routes: those of ours that go with an interface's last address
    ROUTES = "routes"
    RULES = "rules"
    TABLE = "table"
    OTHERS = "others"  # state of other programs that packets of ours may meet


EVERYTHING = frozenset(KernelPart) - {KernelPart.OTHERS}
Callback = Callable[[], None]

BUFFER_BYTES = 4 << 20  # of unread notifications
_BURST = 64  # datagrams in one go, so that a flood cannot hold up the loop
# RTNLGRP_*: link; IPv4 address, route, rule; IPv6 the same; settings (netconf) of both.
_ROUTE_GROUPS = (1, 5, 7, 8, 9, 11, 19, 24, 25)
_NFTABLES_GROUP = 7  # NFNLGRP_NFTABLES
# RTM_NEW* and RTM_DEL* of links, with RTM_NEWNETCONF: rp_filter or forwarding, for one; of addresses, ...
_DEVICES, _ADDRESSES, _ROUTES, _RULES = (16, 17, 80), (20, 21), (24, 25), (32, 33)
_ROUTE_TABLE, _ROUTE_PROTOCOL = 4, 5  # offsets in struct rtmsg
_TABLE_NAME, _PROGRAM = 1, 3  # NFTA_TABLE_NAME and so on, NFTA_GEN_PROC_NAME


def ignore() -> None:
    """Does nothing."""


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
        heard: Callback = ignore,
        buffer: int = BUFFER_BYTES,
    ) -> None:
        self._heard = heard
        self._author = ""  # the program that changed our table since somebody asked
        self._touched = False  # our table, by the transaction whose messages are being read
        self._hint = hint
        self._ours = ours
        self._buffer = buffer
        self._sockets: list[NetlinkSocket] = []

    def open(self) -> None:
        """Listen from now on. OSError."""
        self._listen(socket.NETLINK_ROUTE, _ROUTE_GROUPS, self._routing)
        self._listen(NETFILTER, (_NFTABLES_GROUP,), self.nftables)

    def take_author(self) -> str:
        """The program that last changed our table since this was last asked; empty when nobody did."""
        author, self._author = self._author, ""
        return author

    def close(self) -> None:
        """Listen no more."""
        for netlink in self._sockets:
            asyncio.get_running_loop().remove_reader(netlink)
            netlink.close()
        self._sockets.clear()

    def _listen(
        self, protocol: int, groups: Iterable[int], understand: Callable[[int, bytes], KernelPart | None]
    ) -> None:
        netlink = NetlinkSocket(protocol, timeout=0, groups=groups, buffer_bytes=self._buffer)
        self._sockets.append(netlink)
        asyncio.get_running_loop().add_reader(netlink, self._read, netlink, understand)

    def _read(self, netlink: NetlinkSocket, understand: Callable[[int, bytes], KernelPart | None]) -> None:
        parts: set[KernelPart] = set()
        ours = set(self._ours())
        for _ in range(_BURST):
            try:
                found: Iterator[NetlinkMessage] = netlink.receive()
            except BlockingIOError:
                break
            except OSError:
                parts |= EVERYTHING  # ENOBUFS: notifications were lost; the socket goes on working
                continue
            # A datagram is about one change, and in bulk it is ours that fill the socket.
            first = next(found, None)
            if first is not None and first.sender not in ours:
                parts |= {part for each in (first, *found) if (part := understand(each.kind, each.body))}
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
        named = dict(attributes(body[HEADER_BYTES:]))
        if nft_kind(kind) != NEW_GENERATION:
            ours = text(named.get(_TABLE_NAME)) == TABLE
            self._touched |= ours
            return None if ours else KernelPart.OTHERS
        touched, self._touched = self._touched, False
        if not touched:
            return None
        self._author = text(named.get(_PROGRAM))
        return KernelPart.TABLE
