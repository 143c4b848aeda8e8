"""Interfaces, their addresses and neighbours as rtnetlink messages (rtnetlink(7), linux/if_link.h,
linux/if_addr.h, linux/neighbour.h).

    link_*(), address_*() -> NetlinkRequest -> kernel -> read_link(), read_address()

The daemon sends them by asyncio (`supervisor.kernel`), drivers of tunnels by a blocking socket
(`tunnels.drivers.netlink`).
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from common.netlink import (
    CREATE,
    DUMP,
    EXCLUSIVE,
    NESTED,
    REPLACE,
    NetlinkRequest,
    attribute,
    attributes,
    native,
    text,
    text_attribute,
)

ALIAS = (
    "facilitator"  # IFLA_IFALIAS of the interfaces that our WireGuard driver makes, and that we may remove
)
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
LINK_GROUP, IPV4_ADDRESS_GROUP, IPV6_ADDRESS_GROUP = 1, 5, 9  # RTNLGRP_*
IPV4_ROUTE_GROUP, IPV4_RULE_GROUP, IPV6_ROUTE_GROUP, IPV6_RULE_GROUP = 7, 8, 11, 19

_NEW_LINK, _DELETE_LINK, _GET_LINK, _NEW_ADDRESS, ADDRESS_REMOVED, _GET_ADDRESS = 16, 17, 18, 20, 21, 22
_LINK, _ADDRESS = struct.Struct("=BxHiII"), struct.Struct("=BBBBi")  # struct ifinfomsg, struct ifaddrmsg
_IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_INFO_KIND = 3, 4, 18, 20, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_NODAD, _IFA_F_NOPREFIXROUTE = 0x02, 0x200
_NEW_NEIGHBOUR, _GET_NEIGHBOUR = 28, 30
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # struct ndmsg
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_PERMANENT = 0x80
_IFLA_ADDRESS, _IFLA_INFO_DATA = 1, 2
# IFLA_VXLAN_*: of IPv4 and IPv6 the remote and the local address.
_VXLAN_ID, _VXLAN_LEARNING, _VXLAN_PORT = 1, 7, 15
_VXLAN_REMOTE, _VXLAN_LOCAL = {4: 2, 6: 16}, {4: 4, 6: 17}
_IFF_UP = 0x1
_IFF_LOWER_UP = 0x10000

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface."""

    index: int
    name: str
    up: bool  # administratively
    carrier: bool
    kind: str  # the kernel's word, such as wireguard; empty for hardware
    alias: str
    mtu: int = 0  # bytes; 0: not known


def link_dump() -> NetlinkRequest:
    """Asks for all interfaces."""
    return NetlinkRequest(_GET_LINK, DUMP, _link())


def link_query(index: int = 0, name: str = "") -> NetlinkRequest:
    """Asks for one interface, by its index or its name."""
    return NetlinkRequest(_GET_LINK, 0, _link(index) + (_named(name) if name else b""))


def read_link(body: bytes) -> Link:
    """The interface that an answer is about."""
    _, _, index, flags, _ = _LINK.unpack_from(body)
    found = dict(attributes(body[_LINK.size :]))
    info = dict(attributes(found.get(_IFLA_LINKINFO, b"")))
    return Link(
        index,
        text(found.get(_IFLA_IFNAME)),
        bool(flags & _IFF_UP),
        bool(flags & _IFF_LOWER_UP),
        text(info.get(_IFLA_INFO_KIND)),
        text(found.get(_IFLA_IFALIAS)),
        native(found.get(_IFLA_MTU)),
    )


def link_creation(name: str, kind: str) -> NetlinkRequest:
    """Makes an interface. EOPNOTSUPP: the kernel knows no such kind; EEXIST: the name is taken."""
    info = attribute(_IFLA_LINKINFO | NESTED, attribute(_IFLA_INFO_KIND, kind.encode()))
    return NetlinkRequest(_NEW_LINK, CREATE | EXCLUSIVE, _link() + _named(name) + info)


@dataclass(frozen=True, slots=True)
class Vxlan:
    """A VXLAN interface with one remote address (RFC 7348)."""

    name: str
    identifier: int  # of the virtual network (VNI), 24 bits
    remote: Address
    local: Address
    port: int  # UDP, of both ends
    link_layer: bytes  # its own address, 6 bytes


def vxlan_creation(vxlan: Vxlan, mtu: int) -> NetlinkRequest:
    """Makes the interface, which learns nothing from packets. EEXIST: its name or its identifier is taken."""
    version = vxlan.remote.version
    data = b"".join(
        (
            attribute(_VXLAN_ID, struct.pack("=I", vxlan.identifier)),
            attribute(_VXLAN_REMOTE[version], vxlan.remote.packed),
            attribute(_VXLAN_LOCAL[version], vxlan.local.packed),
            attribute(_VXLAN_LEARNING, b"\0"),
            attribute(_VXLAN_PORT, struct.pack(">H", vxlan.port)),
        )
    )
    info = attribute(_IFLA_INFO_KIND, b"vxlan") + attribute(_IFLA_INFO_DATA | NESTED, data)
    head = _link() + _named(vxlan.name) + attribute(_IFLA_ADDRESS, vxlan.link_layer)
    size = attribute(_IFLA_MTU, struct.pack("=I", mtu))
    return NetlinkRequest(
        _NEW_LINK, CREATE | EXCLUSIVE, head + size + attribute(_IFLA_LINKINFO | NESTED, info)
    )


def read_vxlan(body: bytes) -> Vxlan | None:
    """What an answer says of a VXLAN interface with one remote address; None: it is none."""
    found = dict(attributes(body[_LINK.size :]))
    info = dict(attributes(found.get(_IFLA_LINKINFO, b"")))
    if text(info.get(_IFLA_INFO_KIND)) != "vxlan":
        return None
    data = dict(attributes(info.get(_IFLA_INFO_DATA, b"")))
    remote = next((data[kind] for kind in _VXLAN_REMOTE.values() if kind in data), None)
    local = next((data[kind] for kind in _VXLAN_LOCAL.values() if kind in data), None)
    if remote is None or local is None:
        return None
    return Vxlan(
        text(found.get(_IFLA_IFNAME)),
        native(data.get(_VXLAN_ID)),
        ip_address(remote),
        ip_address(local),
        int.from_bytes(data.get(_VXLAN_PORT, b""), "big"),
        found.get(_IFLA_ADDRESS, b""),
    )


def link_alias(name: str, alias: str) -> NetlinkRequest:
    """Writes an alias on an interface."""
    return NetlinkRequest(_NEW_LINK, 0, _link() + _named(name) + attribute(_IFLA_IFALIAS, alias.encode()))


def link_removal(index: int = 0, name: str = "") -> NetlinkRequest:
    """Removes an interface. By its index: no later one with its name. ENODEV: there is none."""
    return NetlinkRequest(_DELETE_LINK, 0, _link(index) + (_named(name) if name else b""))


def link_renaming(index: int, name: str) -> NetlinkRequest:
    """Gives an interface another name. EBUSY: it is up, and the kernel is older than 6.2."""
    return NetlinkRequest(_NEW_LINK, 0, _link(index) + _named(name))


def link_state(index: int, up: bool = True, mtu: int | None = None) -> NetlinkRequest:
    """Sets an interface up or down, and its MTU (bytes) where one is given."""
    size = b"" if mtu is None else attribute(_IFLA_MTU, struct.pack("=I", mtu))
    return NetlinkRequest(_NEW_LINK, 0, _link(index, _IFF_UP if up else 0, _IFF_UP) + size)


def _link(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return _LINK.pack(socket.AF_UNSPEC, 0, index, flags, change)


def _named(name: str) -> bytes:
    return text_attribute(_IFLA_IFNAME, name)


class InterfaceAddress(NamedTuple):
    """An address on an interface."""

    interface: int  # its index
    address: Address
    alone: bool  # it has no peer, and no network came with it
    body: bytes  # as the kernel gave it: what a removal names


def address_dump(index: int = 0, version: int | None = None) -> NetlinkRequest:
    """Asks for the addresses of one interface; 0: of all."""
    family = socket.AF_UNSPEC if version is None else FAMILY[version]
    return NetlinkRequest(_GET_ADDRESS, DUMP, _ADDRESS.pack(family, 0, 0, 0, index))


def read_address(body: bytes) -> InterfaceAddress | None:
    """The address in an answer; None: a link-local one, which belongs to the interface itself."""
    family, length, _, _, index = _ADDRESS.unpack_from(body)
    found = dict(attributes(body[_ADDRESS.size :]))
    packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    if packed is None or family not in FAMILY.values():
        return None
    address = ip_address(packed)
    if address.version == 6 and address.is_link_local:
        return None
    peer = found.get(_IFA_ADDRESS, packed) != packed
    return InterfaceAddress(index, address, not peer and length == address.max_prefixlen, body)


def address_removal(held: InterfaceAddress) -> NetlinkRequest:
    """Takes the address off its interface."""
    return NetlinkRequest(ADDRESS_REMOVED, 0, held.body)


def host_address(index: int, address: Address) -> NetlinkRequest:
    """Puts an address on an interface as a host of its own (/32, /128), without a peer and
    without any route.
    """
    flags = attribute(_IFA_FLAGS, struct.pack("=I", _IFA_F_NODAD | _IFA_F_NOPREFIXROUTE))
    head = _ADDRESS.pack(FAMILY[address.version], address.max_prefixlen, 0, 0, index)
    both = attribute(_IFA_LOCAL, address.packed) + attribute(_IFA_ADDRESS, address.packed)
    return NetlinkRequest(_NEW_ADDRESS, CREATE | REPLACE, head + both + flags)


def made_host_address(held: InterfaceAddress) -> tuple[NetlinkRequest, NetlinkRequest]:
    """Exchanges an address for the same one as a host of its own.

    The kernel takes IPv4 routes away with an interface's last IPv4 address, so there the new one comes first.
    Of IPv6 it takes no address twice.
    """
    messages = host_address(held.interface, held.address), address_removal(held)
    return messages if held.address.version == 4 else (messages[1], messages[0])


def neighbour_query(index: int, address: Address) -> NetlinkRequest:
    """Asks for one neighbour on an interface (Linux 5.0 and later). ENOENT: there is no entry."""
    head = _NEIGHBOUR.pack(FAMILY[address.version], index, 0, 0, 0)
    return NetlinkRequest(_GET_NEIGHBOUR, 0, head + attribute(_NDA_DST, address.packed))


def read_neighbour(body: bytes) -> tuple[Address, int] | None:
    """The address of a neighbour and the state of its entry, NUD_*."""
    _, _, state, _, _ = _NEIGHBOUR.unpack_from(body)
    packed = dict(attributes(body[_NEIGHBOUR.size :])).get(_NDA_DST)
    return None if packed is None else (ip_address(packed), state)


def permanent_neighbour(index: int, address: Address, link_layer: bytes) -> NetlinkRequest:
    """Where the kernel finds a neighbour, without asking; it takes the place of what it knew."""
    head = _NEIGHBOUR.pack(FAMILY[address.version], index, _NUD_PERMANENT, 0, 0)
    body = attribute(_NDA_DST, address.packed) + attribute(_NDA_LLADDR, link_layer)
    return NetlinkRequest(_NEW_NEIGHBOUR, CREATE | REPLACE, head + body)


def neighbour_change(index: int, address: Address, state: int) -> NetlinkRequest:
    """Sets the state of an entry that exists."""
    head = _NEIGHBOUR.pack(FAMILY[address.version], index, state, 0, 0)
    return NetlinkRequest(_NEW_NEIGHBOUR, REPLACE, head + attribute(_NDA_DST, address.packed))
