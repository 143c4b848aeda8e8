"""The network namespace in which `facilitator try` probes: a client's interface moves there."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

from common.netlink import CREATE, NetlinkSocket, attribute
from common.rtnetlink import host_address, link_state
from tunnels.networks import IPAddress

_RTM_NEWLINK, _RTM_NEWROUTE = 16, 24  # linux/rtnetlink.h
_NET_NS_FD = 28  # IFLA_NET_NS_FD
_RTA_OIF = 4
_IFINFO, _RTMSG = struct.Struct("=BxHiII"), struct.Struct("=BBBBBBBBI")
_MAIN, _STATIC, _LINK, _UNICAST = 254, 4, 253, 1


def move(device: str, namespace: int) -> None:
    """Move the interface into the namespace of this descriptor. OSError."""
    body = _IFINFO.pack(socket.AF_UNSPEC, 0, socket.if_nametoindex(device), 0, 0)
    body += attribute(_NET_NS_FD, struct.pack("=I", namespace))
    with NetlinkSocket(socket.NETLINK_ROUTE) as route:
        route.request(_RTM_NEWLINK, 0, body)


def settle(device: str, addresses: Iterable[IPAddress], mtu: int | None) -> None:
    """In the calling thread's namespace: give the interface its addresses, and lead everything into it.
    OSError.
    """
    with contextlib.suppress(OSError):  # ICMP is allowed for everybody in here
        Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
    index = socket.if_nametoindex(device)
    with NetlinkSocket(socket.NETLINK_ROUTE) as route:
        for request in (link_state(index, mtu=mtu), *(host_address(index, each) for each in addresses)):
            route.request(*request)
        for version in {each.version for each in addresses}:
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            body = _RTMSG.pack(family, 0, 0, 0, _MAIN, _STATIC, _LINK, _UNICAST, 0)
            body += attribute(_RTA_OIF, struct.pack("=I", index))
            route.request(_RTM_NEWROUTE, CREATE, body)
