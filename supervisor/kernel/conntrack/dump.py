"""Connection tracking over netlink (linux/netfilter/nfnetlink_conntrack.h): the entries with a mark, and the
end of their memory. What an entry means is its reader's business.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from common.netlink import DUMP, NETFILTER, NetlinkRequest, NetlinkSocket, attribute

NEW, DELETE = 0x100, 0x102  # IPCTNL_MSG_CT_*, of NFNL_SUBSYS_CTNETLINK
MARK = 8  # CTA_MARK of an entry: the lane
HEADER_BYTES = 4  # struct nfgenmsg: what stands before the attributes
_GET = 0x101
_MARK_MASK = 21  # CTA_MARK_MASK
_UPDATES, _ENDS = 2, 3  # NFNLGRP_CONNTRACK_UPDATE, NFNLGRP_CONNTRACK_DESTROY
_WHOLE = 0xFFFF_FFFF


def conntrack_socket() -> NetlinkSocket:
    """A socket in the network namespace of the calling thread. OSError."""
    return NetlinkSocket(NETFILTER)


def listening() -> NetlinkSocket:
    """A socket that does not block and gets a notification whenever a flow changes its state or ends.
    OSError without CAP_NET_ADMIN.
    """
    return NetlinkSocket(NETFILTER, timeout=0, groups=(_UPDATES, _ENDS))


def entries(netlink: NetlinkSocket, mark: int, mask: int = _WHOLE) -> Iterator[bytes]:
    """The bodies of all entries with this mark, as far as the mask goes; the kernel chooses them. OSError."""
    return netlink.answers(*request(_GET, DUMP, socket.AF_UNSPEC, _marked(mark, mask)))


def forget(netlink: NetlinkSocket, mark: int, mask: int = _WHOLE) -> None:
    """Delete all entries with this mark, as far as the mask goes. OSError."""
    netlink.send(request(DELETE, 0, socket.AF_UNSPEC, _marked(mark, mask)))


def request(kind: int, flags: int, family: int, body: bytes) -> NetlinkRequest:
    """A message to connection tracking."""
    return NetlinkRequest(kind, flags, bytes((family, 0, 0, 0)) + body)


def _marked(mark: int, mask: int) -> bytes:
    return attribute(MARK, struct.pack(">I", mark)) + attribute(_MARK_MASK, struct.pack(">I", mask))
