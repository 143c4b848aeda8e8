"""What a program of ours changes about a device and about policy rules, by the kernel's own interfaces and without a library."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFNAME, _IFF_UP = 0x8913, 0x8914, 0x8923, 1
_RTM_DELRULE, _NLM_F_REQUEST, _NLM_F_ACK = 33, 1, 4
_FRA_TABLE = 15


def rename(device: str, name: str) -> None:
    """Give a device another name. OSError: there is one of that name, or the kernel does not let us."""
    if device == name:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inet:
        try:
            _rename(inet, device, name)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            _bring(inet, device, up=False)      # before Linux 6.2 a device has to be down for it
            _rename(inet, device, name)
            _bring(inet, name, up=True)


def _rename(inet: socket.socket, device: str, name: str) -> None:
    fcntl.ioctl(inet, _SIOCSIFNAME, struct.pack("16s16s8x", device.encode(), name.encode()))


def _bring(inet: socket.socket, device: str, *, up: bool) -> None:
    request = struct.pack("16s24x", device.encode())
    (flags,) = struct.unpack_from("16xH", fcntl.ioctl(inet, _SIOCGIFFLAGS, request))
    flags = flags | _IFF_UP if up else flags & ~_IFF_UP
    fcntl.ioctl(inet, _SIOCSIFFLAGS, struct.pack("16sH22x", device.encode(), flags))


def forget_rules(table: int) -> None:
    """Delete the policy rules, one of IPv4 and one of IPv6, that send packets to a table; it is fine if there are none."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as rtnetlink:
        rtnetlink.bind((0, 0))
        for family in (socket.AF_INET, socket.AF_INET6):
            attribute = struct.pack("=HHI", 8, _FRA_TABLE, table)
            rule = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0)
            rtnetlink.send(struct.pack("=IHHII", 16 + len(rule) + len(attribute), _RTM_DELRULE, _NLM_F_REQUEST | _NLM_F_ACK, 0, 0)
                           + rule + attribute)
            rtnetlink.recv(4096)        # the kernel has done it, or knows no such rule
