"""A little netlink for the programs of this package: a library for it takes longer to import than a tunnel
to start.

Requests are answered by the kernel at once, so everything here is synchronous. Every refusal is an OSError
with the kernel's errno.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

# What must be 0 on a tunnel's interface: router advertisements, addresses from them, ICMP redirects
# (ip-sysctl.rst in the kernel's
# documentation).
UNTRUSTED = (
    "ipv6/conf/{}/accept_ra",
    "ipv6/conf/{}/autoconf",
    "ipv6/conf/{}/accept_redirects",
    "ipv4/conf/{}/accept_redirects",
)
DEFAULT_MTU = 1412  # what vpnc-script takes where a client names none
REQUEST, ACK, DUMP, CREATE, EXCLUSIVE, REPLACE = 0x1, 0x4, 0x300, 0x400, 0x200, 0x100
NESTED = 0x8000
LINK_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR

_ERROR, _DONE = 2, 3
_NEW_LINK, _DELETE_LINK, _GET_LINK, _NEW_ADDRESS, _GET_ADDRESS, _DELETE_RULE = 16, 17, 18, 20, 22, 33
_IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_INFO_KIND = 3, 4, 18, 20, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS, _FRA_TABLE = 1, 2, 8, 15
_IFA_F_NODAD, _IFA_F_NOPREFIXROUTE = 0x02, 0x200
_IFF_UP = 1
# struct ifinfomsg, struct ifaddrmsg, struct fib_rule_hdr
_LINK, _ADDRESS, _RULE = struct.Struct("=BxHiII"), struct.Struct("=BBBBi"), struct.Struct("=B11x")
_BUFFER = 1 << 18

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class NetlinkMessage:
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

    def request(self, kind: int, flags: int, body: bytes) -> list[NetlinkMessage]:
        """What the kernel answers: to a dump many messages, to an order none."""
        self._number += 1
        self._socket.send(
            struct.pack("=IHHII", 16 + len(body), kind, REQUEST | ACK | flags, self._number, 0) + body
        )
        answers: list[NetlinkMessage] = []
        while True:
            for number, message in _messages(self._socket.recv(_BUFFER)):
                if number != self._number:
                    continue  # news of a group that this socket belongs to
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


def _messages(data: bytes) -> Iterator[tuple[int, NetlinkMessage]]:
    """Sequence number and message, of each in a datagram."""
    while len(data) >= 16:
        size, kind, _, number, _ = struct.unpack_from("=IHHII", data)
        yield number, NetlinkMessage(kind, data[16:size])
        data = data[(size + 3) & ~3 :]


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
        data = data[max(4, (size + 3) & ~3) :]


# --- devices
# ----------------------------------------------------------------------------------------------------------


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
    return (
        dict(attributes(found.body[_LINK.size :]))
        .get(_IFLA_IFALIAS, b"")
        .rstrip(b"\0")
        .decode(errors="replace")
    )


def rename(device: str, name: str) -> None:
    """Give a device another name. OSError: there is one of that name, or the kernel does not let us."""
    if device == name:
        return
    index = socket.if_nametoindex(device)
    with Netlink() as netlink:
        try:
            netlink.request(_NEW_LINK, 0, _link(0, 0, index) + _named(name))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            netlink.request(
                _NEW_LINK, 0, _link(0, _IFF_UP, index)
            )  # before Linux 6.2 a device has to be down for it
            netlink.request(_NEW_LINK, 0, _link(0, 0, index) + _named(name))
            netlink.request(_NEW_LINK, 0, _link(_IFF_UP, _IFF_UP, index))


def bring_up(device: str, mtu: int | None = None) -> None:
    """Bring the interface up with this MTU in bytes, closed to what a remote gateway may send to
    reconfigure this host.

    No address: those that a remote gateway assigns exist in source NAT only. OSError: the kernel does not let
    us.
    """
    index = socket.if_nametoindex(device)
    for setting in UNTRUSTED:
        with contextlib.suppress(
            OSError
        ):  # no IPv6, or not writable here: the daemon's packet filter drops these messages anyway
            Path(f"/proc/sys/net/{setting.format(device)}").write_text("0")
    with Netlink() as netlink:
        netlink.request(
            _NEW_LINK,
            0,
            _link(_IFF_UP, _IFF_UP, index) + attribute(_IFLA_MTU, struct.pack("=I", mtu or DEFAULT_MTU)),
        )


def add_address(device: str, address: Address) -> None:
    """Put an address on the interface as a host of its own, without any route. OSError: the kernel does
    not let us.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    flags = attribute(_IFA_FLAGS, struct.pack("=I", _IFA_F_NODAD | _IFA_F_NOPREFIXROUTE))
    body = attribute(_IFA_LOCAL, address.packed) + attribute(_IFA_ADDRESS, address.packed) + flags
    head = _ADDRESS.pack(family, address.max_prefixlen, 0, 0, socket.if_nametoindex(device))
    with Netlink() as netlink:
        netlink.request(_NEW_ADDRESS, CREATE | REPLACE, head + body)


def address_of(netlink: Netlink, name: str) -> Address | None:
    """An address of the device, IPv4 before IPv6, link-local ones not; None while it is missing, down or
    without one.
    """
    try:
        index = socket.if_nametoindex(name)
        (link,) = netlink.request(_GET_LINK, 0, _link(0, 0, index))
    except OSError:
        return None
    if not _LINK.unpack_from(link.body)[3] & _IFF_UP:
        return None
    found = (address for _, address in _addresses(netlink, index) if not address.is_link_local)
    return min(found, key=lambda address: address.version, default=None)


def _addresses(netlink: Netlink, index: int) -> Iterator[tuple[bytes, Address]]:
    """The addresses of a device, each with the kernel's words for it."""
    for message in netlink.request(_GET_ADDRESS, DUMP, bytes(_ADDRESS.size)):
        family, _, _, _, device = _ADDRESS.unpack_from(message.body)
        found = dict(attributes(message.body[_ADDRESS.size :]))
        packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
        if device == index and packed is not None:
            yield message.body, IPv4Address(packed) if family == socket.AF_INET else IPv6Address(packed)


# --- policy rules
# ----------------------------------------------------------------------------------------------------------


def forget_rules(table: int) -> None:
    """Delete the policy rules, one of IPv4 and one of IPv6, that send packets to a table; it is fine if
    there are none.
    """
    with Netlink() as netlink:
        for family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(FileNotFoundError):
                netlink.request(
                    _DELETE_RULE, 0, _RULE.pack(family) + attribute(_FRA_TABLE, struct.pack("=I", table))
                )


def _link(flags: int, change: int, index: int = 0) -> bytes:
    return _LINK.pack(socket.AF_UNSPEC, 0, index, flags, change)


def _named(name: str) -> bytes:
    return attribute(_IFLA_IFNAME, name.encode() + b"\0")
