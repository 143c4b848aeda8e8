"""What drivers do with interfaces, addresses and policy rules, over blocking netlink (`common.netlink`).

A netlink library takes longer to import than a tunnel to start. The kernel answers requests at once, so
everything here is synchronous. Every refusal is an OSError with the kernel's errno.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from pathlib import Path

from common.netlink import NetlinkRequest, NetlinkSocket, attribute
from common.rtnetlink import (
    IPV4_ADDRESS_GROUP,
    IPV6_ADDRESS_GROUP,
    LINK_GROUP,
    Address,
    address_dump,
    host_address,
    link_alias,
    link_creation,
    link_query,
    link_removal,
    link_renaming,
    link_state,
    read_address,
    read_link,
)

# What must be 0 on a tunnel's interface: router advertisements, addresses from them, ICMP redirects
# (ip-sysctl.rst in the kernel's documentation).
UNTRUSTED = (
    "ipv6/conf/{}/accept_ra",
    "ipv6/conf/{}/autoconf",
    "ipv6/conf/{}/accept_redirects",
    "ipv4/conf/{}/accept_redirects",
)
DEFAULT_MTU_BYTES = 1412  # what vpnc-script takes where a client names none
ADDRESS_GROUPS = (LINK_GROUP, IPV4_ADDRESS_GROUP, IPV6_ADDRESS_GROUP)  # what `address_of` depends on

_DELETE_RULE, _FRA_TABLE = 33, 15
_RULE = struct.Struct("=B11x")  # struct fib_rule_hdr


def _carry_out(*requests: NetlinkRequest) -> None:
    """One after the other; OSError at the first refusal."""
    with NetlinkSocket() as netlink:
        for request in requests:
            netlink.request(*request)


def add_interface(name: str, kind: str, alias: str) -> None:
    """Make an interface. EOPNOTSUPP: this kernel knows no such kind; EEXIST: the name is taken."""
    _carry_out(link_creation(name, kind), link_alias(name, alias))


def delete_interface(name: str) -> None:
    """Remove an interface. ENODEV: there is none."""
    _carry_out(link_removal(name=name))


def alias_of(name: str) -> str:
    """The alias of an interface; empty where there is none, or no such interface."""
    try:
        with NetlinkSocket() as netlink:
            (found,) = netlink.request(*link_query(name=name))
    except OSError:
        return ""
    return read_link(found).alias


def rename(interface: str, name: str) -> None:
    """Give an interface another name. OSError: there is one of that name, or the kernel does not let us."""
    if interface == name:
        return
    index = socket.if_nametoindex(interface)
    try:
        _carry_out(link_renaming(index, name))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        # Before Linux 6.2 an interface has to be down for it.
        _carry_out(link_state(index, up=False), link_renaming(index, name), link_state(index))


def bring_up(interface: str, mtu: int | None = None) -> int:
    """Bring the interface up with this MTU in bytes, closed to what a remote gateway may send to
    reconfigure this host. Returns the MTU, which the daemon keeps from now on (`connected`).

    No address: those that a remote gateway assigns exist in source NAT only. OSError: the kernel does not let
    us.
    """
    index = socket.if_nametoindex(interface)
    for setting in UNTRUSTED:
        # No IPv6, or not writable here: the daemon's packet filter drops these messages anyway.
        with contextlib.suppress(OSError):
            Path(f"/proc/sys/net/{setting.format(interface)}").write_text("0")
    mtu = mtu or DEFAULT_MTU_BYTES
    _carry_out(link_state(index, mtu=mtu))
    return mtu


def add_address(interface: str, address: Address) -> None:
    """Put an address on the interface as a host of its own, without any route. OSError: the kernel does
    not let us.
    """
    _carry_out(host_address(socket.if_nametoindex(interface), address))


def address_of(netlink: NetlinkSocket, name: str) -> Address | None:
    """An address of the interface, IPv4 before IPv6, link-local ones not; None while it is missing, down
    or without one.
    """
    try:
        (answer,) = netlink.request(*link_query(socket.if_nametoindex(name)))
    except OSError:
        return None
    link = read_link(answer)
    if not link.up:
        return None
    held = filter(None, map(read_address, netlink.request(*address_dump(link.index))))
    found = (each.address for each in held if each.interface == link.index and not each.address.is_link_local)
    return min(found, key=lambda address: address.version, default=None)


def forget_rules(table: int) -> None:
    """Delete the policy rules, one of IPv4 and one of IPv6, that send packets to a table; it is fine if
    there are none.
    """
    body = attribute(_FRA_TABLE, struct.pack("=I", table))
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(FileNotFoundError):
            _carry_out(NetlinkRequest(_DELETE_RULE, 0, _RULE.pack(family) + body))
