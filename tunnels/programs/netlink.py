"""A little netlink for the programs of this package: a library for it takes longer to import than a tunnel to start.

Requests are answered by the kernel at once, so everything here is synchronous. Every refusal is an OSError with the kernel's errno.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

REQUEST, ACK, DUMP, CREATE, EXCLUSIVE, REPLACE = 0x1, 0x4, 0x300, 0x400, 0x200, 0x100
NESTED = 0x8000
LINK_GROUPS = 0x1 | 0x10 | 0x100        # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR

_ERROR, _DONE = 2, 3
_NEW_LINK, _DELETE_LINK, _GET_LINK, _NEW_ADDRESS, _GET_ADDRESS = 16, 17, 18, 20, 22
_IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_INFO_KIND = 3, 4, 18, 20, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_NODAD = 0x02                     # nobody else can have an address inside of the tunnel
_IFF_UP = 1
_LINK, _ADDRESS = struct.Struct("=BxHiII"), struct.Struct("=BBBBi")     # struct ifinfomsg, struct ifaddrmsg
_BUFFER = 1 << 18

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the kernel, without its header."""

    kind: int
    body: bytes


class Netlink:
    """A socket to one netlink family; `with Netlink() as netlink`."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE, groups: int = 0) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, groups))
        self._number = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def request(self, kind: int, flags: int, body: bytes) -> list[Message]:
        """What the kernel answers: to a dump many messages, to an order none."""
        self._number += 1
        self._socket.send(struct.pack("=IHHII", 16 + len(body), kind, REQUEST | ACK | flags, self._number, 0) + body)
        answers: list[Message] = []
        while True:
            for number, message in _messages(self._socket.recv(_BUFFER)):
                if number != self._number:
                    continue        # news of a group that this socket belongs to
                if message.kind in (_ERROR, _DONE):
                    _raise(message.body)
                    return answers
                answers.append(message)

    def fileno(self) -> int:
        """For select(2): readable when there is news of the groups."""
        return self._socket.fileno()

    def skip(self) -> None:
        """Take one piece of news. ENOBUFS: some were lost."""
        self._socket.recv(_BUFFER)


def _messages(data: bytes) -> Iterator[tuple[int, Message]]:
    """Sequence number and message, of each in a datagram."""
    while len(data) >= 16:
        size, kind, _, number, _ = struct.unpack_from("=IHHII", data)
        yield number, Message(kind, data[16:size])
        data = data[(size + 3) & ~3:]


def _raise(body: bytes) -> None:
    (code,) = struct.unpack_from("=i", body) if len(body) >= 4 else (0,)
    if code < 0:
        raise OSError(-code, os.strerror(-code))


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and value of each attribute."""
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        yield kind & 0x3FFF, data[4:size]
        data = data[max(4, (size + 3) & ~3):]


# --- devices -------------------------------------------------------------------------------------------------------------------


def add_device(name: str, kind: str, alias: str) -> None:
    """Make a device. EOPNOTSUPP: this kernel knows no such kind; EEXIST: the name is taken."""
    info = attribute(_IFLA_LINKINFO | NESTED, attribute(_IFLA_INFO_KIND, kind.encode()))
    with Netlink() as netlink:
        netlink.request(_NEW_LINK, CREATE | EXCLUSIVE, _link(0, 0) + _named(name) + info)
        netlink.request(_NEW_LINK, 0, _link(0, 0) + _named(name) + attribute(_IFLA_IFALIAS, alias.encode()))


def delete_device(name: str) -> None:
    """Remove a device. ENODEV: there is none."""
    with Netlink() as netlink:
        netlink.request(_DELETE_LINK, 0, _link(0, 0) + _named(name))


def alias_of(name: str) -> str:
    """What somebody has written on the device; empty where there is no such device or no such words."""
    try:
        with Netlink() as netlink:
            (found,) = netlink.request(_GET_LINK, 0, _link(0, 0) + _named(name))
    except OSError:
        return ""
    return dict(attributes(found.body[_LINK.size:])).get(_IFLA_IFALIAS, b"").rstrip(b"\0").decode(errors="replace")


def bring_up(name: str, addresses: Iterable[Address], mtu: int) -> None:
    """Give the device its addresses, each as a host of its own so that no route comes with it, and its MTU, and bring it up."""
    index = socket.if_nametoindex(name)
    with Netlink() as netlink:
        for address in addresses:
            family = socket.AF_INET if address.version == 4 else socket.AF_INET6
            head = _ADDRESS.pack(family, address.max_prefixlen, _IFA_F_NODAD if address.version == 6 else 0, 0, index)
            body = attribute(_IFA_LOCAL, address.packed) + attribute(_IFA_ADDRESS, address.packed)
            netlink.request(_NEW_ADDRESS, CREATE | REPLACE, head + body)
        netlink.request(_NEW_LINK, 0, _link(_IFF_UP, _IFF_UP, index) + attribute(_IFLA_MTU, struct.pack("=I", mtu)))


def address_of(netlink: Netlink, name: str) -> Address | None:
    """An address of the device, IPv4 before IPv6, link-local ones not; None while it is missing, down or without one."""
    try:
        index = socket.if_nametoindex(name)
        (link,) = netlink.request(_GET_LINK, 0, _link(0, 0, index))
    except OSError:
        return None
    if not _LINK.unpack_from(link.body)[3] & _IFF_UP:
        return None
    found = [address for message in netlink.request(_GET_ADDRESS, DUMP, bytes(_ADDRESS.size)) for address in _address(message, index)]
    return min((address for address in found if not address.is_link_local), key=lambda address: address.version, default=None)


def _address(message: Message, index: int) -> Iterator[Address]:
    family, _, _, _, device = _ADDRESS.unpack_from(message.body)
    found = dict(attributes(message.body[_ADDRESS.size:]))
    packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    if device == index and packed is not None:
        yield IPv4Address(packed) if family == socket.AF_INET else IPv6Address(packed)


def _link(flags: int, change: int, index: int = 0) -> bytes:
    return _LINK.pack(socket.AF_UNSPEC, 0, index, flags, change)


def _named(name: str) -> bytes:
    return attribute(_IFLA_IFNAME, name.encode() + b"\0")
