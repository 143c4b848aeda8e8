"""Network devices as rtnetlink messages: which there are, of which kind, and what somebody has written on
them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from supervisor.kernel.netlink.codec import attributes
from supervisor.kernel.netlink.socket import DUMP, NetlinkRequest

ALIAS = "facilitator"  # what our WireGuard clients write on the devices that they make
_DELETE_LINK, _GET_LINK = 17, 18
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg
_IFNAME, _LINKINFO, _IFALIAS, _INFO_KIND = 3, 18, 20, 1


@dataclass(frozen=True, slots=True)
class Link:
    """A network device."""

    index: int
    name: str
    kind: str  # the kernel's word, such as wireguard; empty for hardware
    alias: str


def link_dump() -> NetlinkRequest:
    """Asks for all devices."""
    return NetlinkRequest(_GET_LINK, DUMP, _LINK.pack(0, 0, 0, 0, 0))


def link_removal(link: Link) -> NetlinkRequest:
    """Removes this device and no later one with its name."""
    return NetlinkRequest(_DELETE_LINK, 0, _LINK.pack(0, 0, link.index, 0, 0))


def read_link(body: bytes) -> Link:
    """The device that an answer is about."""
    found = dict(attributes(body[_LINK.size :]))
    info = dict(attributes(found.get(_LINKINFO, b"")))
    return Link(
        _LINK.unpack_from(body)[2],
        _text(found.get(_IFNAME)),
        _text(info.get(_INFO_KIND)),
        _text(found.get(_IFALIAS)),
    )


def _text(data: bytes | None) -> str:
    return (data or b"").rstrip(b"\0").decode(errors="replace")
