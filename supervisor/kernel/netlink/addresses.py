"""Addresses of interfaces, and next hops of routes, as rtnetlink messages (rtnetlink(7)).

address_dump() -> Message -> kernel -> read_address()        address_message(), link_message() -> Message ->
kernel
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from typing import NamedTuple

from supervisor.core.network.layout import MAIN_TABLE
from supervisor.kernel.netlink.codec import attribute, attributes
from supervisor.kernel.netlink.socket import CREATE, DUMP, REPLACE, NetlinkRequest
from tunnels.settings import IPAddress

_NEW_LINK, _NEW_ADDRESS, _DELETE_ADDRESS, _GET_ADDRESS, _GET_ROUTE = 16, 20, 21, 22, 26
_LINK, _ADDRESS, _ROUTE = (
    struct.Struct("=BxHiII"),
    struct.Struct("=BBBBi"),
    struct.Struct("=BBBBBBBBI"),
)  # ifinfomsg, ifaddrmsg, rtmsg
_IFLA_MTU, _IFF_UP = 4, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_NODAD, _IFA_F_NOPREFIXROUTE = 0x02, 0x200
_RTA_GATEWAY, _RTA_MULTIPATH, _RTA_VIA = 5, 9, 18
_NEXT_HOP = struct.Struct("=HBBi")  # struct rtnexthop
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


class InterfaceAddress(NamedTuple):
    """An address on an interface."""

    interface: int  # its index
    address: IPAddress
    alone: bool  # it has no peer, and no network came with it
    body: bytes  # as the kernel gave it: what a removal names


def link_message(index: int, mtu: int | None) -> NetlinkRequest:
    """Brings an interface up, with this MTU in bytes."""
    size = b"" if mtu is None else attribute(_IFLA_MTU, struct.pack("=I", mtu))
    return NetlinkRequest(_NEW_LINK, 0, _LINK.pack(socket.AF_UNSPEC, 0, index, _IFF_UP, _IFF_UP) + size)


def address_dump(index: int = 0) -> NetlinkRequest:
    """Asks for the addresses of one interface; 0: of all."""
    return NetlinkRequest(_GET_ADDRESS, DUMP, _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, index))


def read_address(body: bytes) -> InterfaceAddress | None:
    """The address in an answer; None: a link-local one, which belongs to the interface itself."""
    family, length, _, _, index = _ADDRESS.unpack_from(body)
    found = dict(attributes(body[_ADDRESS.size :]))
    packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    if packed is None or family not in _FAMILY.values():
        return None
    address = ip_address(packed)
    if address.version == 6 and address.is_link_local:
        return None
    peer = found.get(_IFA_ADDRESS, packed) != packed
    return InterfaceAddress(index, address, not peer and length == address.max_prefixlen, body)


def address_removal(held: InterfaceAddress) -> NetlinkRequest:
    """Takes the address off its interface."""
    return NetlinkRequest(_DELETE_ADDRESS, 0, held.body)


def made_alone(held: InterfaceAddress) -> tuple[NetlinkRequest, NetlinkRequest]:
    """Exchanges the address for the same one as a host of its own, without a peer and without any route.

    The kernel takes IPv4 routes away with an interface's last IPv4 address, so there the new one comes first.
    Of IPv6 it takes no address twice.
    """
    messages = address_alone(held), address_removal(held)
    return messages if held.address.version == 4 else (messages[1], messages[0])


def address_alone(held: InterfaceAddress) -> NetlinkRequest:
    """Puts the address on its interface as a host of its own."""
    packed = held.address.packed
    flags = attribute(_IFA_FLAGS, struct.pack("=I", _IFA_F_NODAD | _IFA_F_NOPREFIXROUTE))
    head = _ADDRESS.pack(_FAMILY[held.address.version], held.address.max_prefixlen, 0, 0, held.interface)
    return NetlinkRequest(
        _NEW_ADDRESS,
        CREATE | REPLACE,
        head + attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed) + flags,
    )


def next_hop_dump(version: int) -> NetlinkRequest:
    """Asks for the routes of the main table."""
    return NetlinkRequest(_GET_ROUTE, DUMP, _ROUTE.pack(_FAMILY[version], 0, 0, 0, MAIN_TABLE, 0, 0, 0, 0))


def read_next_hops(body: bytes) -> tuple[IPAddress, ...]:
    """The gateways of one route."""
    return tuple(_next_hops(dict(attributes(body[_ROUTE.size :]))))


def _next_hops(found: dict[int, bytes]) -> Iterator[IPAddress]:
    if _RTA_GATEWAY in found:
        yield ip_address(found[_RTA_GATEWAY])
    if _RTA_VIA in found and len(found[_RTA_VIA]) in (
        6,
        18,
    ):  # struct rtvia: the family of the address comes first
        yield ip_address(found[_RTA_VIA][2:])
    rest = found.get(_RTA_MULTIPATH, b"")
    while len(rest) >= _NEXT_HOP.size:
        size, *_ = _NEXT_HOP.unpack_from(rest)
        yield from _next_hops(dict(attributes(rest[_NEXT_HOP.size : size])))
        rest = rest[max(_NEXT_HOP.size, size + 3 & ~3) :]
