"""Ends all that a source address has under way through our tunnels: its flows in connection tracking, and its
connections to proxies.

A flow that is forgotten is a new one with its next packet, and the gate of the table refuses that. A
connection to a proxy has two ends on this host and its client: the proxy's end is closed by the kernel
(SOCK_DESTROY, sock_diag(7)), which resets the client as well, while the flow is still known.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Collection, Iterator
from ipaddress import IPv6Address, ip_address

from common.netlink import ACK, DUMP, NESTED, SOCK_DIAG, NetlinkRequest, NetlinkSocket, attribute, attributes
from supervisor.core.network.flow_counting import prefix
from supervisor.core.network.lanes import HOST_FLAG
from supervisor.kernel.conntrack import dump as ct
from supervisor.kernel.conntrack.flow_moves import ALL_LANES
from supervisor.kernel.nft.ruleset import FIRST_PORT, LAST_PORT
from supervisor.kernel.sysctl import Note
from tunnels.networks import IPAddress

_ORIGINAL, _ID, _ADDRESSES = 1, 12, 1  # CTA_TUPLE_ORIG, CTA_ID; CTA_TUPLE_IP
_BY_FAMILY, _DESTROY = 20, 21  # SOCK_DIAG_BY_FAMILY, SOCK_DESTROY
_NOT_LISTENING = 0xFFF & ~(1 << 10)  # states of TCP but for TCP_LISTEN
_BATCH = 100  # flows in one datagram


class DeniedSources:
    """Remembers which sources were ended, and ends those that are new."""

    def __init__(self, note: Note) -> None:
        self._note = note
        self._ended: frozenset[IPAddress] = frozenset()

    async def reached(self, denied: Collection[IPAddress]) -> None:
        """The kernel lets these sources in no more. What they had under way ends, in a thread."""
        wanted = frozenset(denied)
        new, self._ended = wanted - self._ended, wanted & self._ended
        if not new:
            return
        try:
            # The sockets are made here, in the network namespace of this thread.
            await asyncio.to_thread(_end, NetlinkSocket(SOCK_DIAG), ct.conntrack_socket(), new)
        except OSError as error:
            names = ", ".join(map(str, sorted(new, key=str)))
            self._note(f"what {names} had active is not ended: it cannot be ended: {error}", {})
        else:
            self._ended = wanted


def _end(sockets: NetlinkSocket, conntrack: NetlinkSocket, sources: frozenset[IPAddress]) -> None:
    with sockets, conntrack:
        _close_proxied(sockets, sources)
        packed = {source.packed for source in sources}
        mark, mask = prefix(ALL_LANES)
        found = list(_flows_from(ct.entries(conntrack, mark, mask & ~HOST_FLAG), packed))
        for start in range(0, len(found), _BATCH):
            # What the kernel says to a single one is not read: a flow that is gone is gone.
            conntrack.send(*found[start : start + _BATCH])


def _flows_from(entries: Iterator[bytes], sources: Collection[bytes]) -> Iterator[NetlinkRequest]:
    """The requests that delete the flows of these sources."""
    for body in entries:
        values = dict(attributes(body[ct.HEADER_BYTES :]))
        (_, source), *_ = attributes(dict(attributes(values[_ORIGINAL]))[_ADDRESSES])
        if source in sources:
            about = attribute(_ORIGINAL | NESTED, values[_ORIGINAL]) + attribute(_ID, values[_ID])
            yield ct.request(ct.DELETE, 0, body[0], about)


def _close_proxied(sockets: NetlinkSocket, sources: Collection[IPAddress]) -> None:
    for family in (socket.AF_INET, socket.AF_INET6):
        asked = struct.pack("=BBxxI48x", family, socket.IPPROTO_TCP, _NOT_LISTENING)
        for body in sockets.request(_BY_FAMILY, DUMP, asked):
            ours, peer = struct.unpack_from(">H2x16x16s", body, 4)
            if FIRST_PORT <= ours <= LAST_PORT and _address(body[0], peer) in sources:
                identity = struct.pack("=BBxxI", family, socket.IPPROTO_TCP, _NOT_LISTENING) + body[4:52]
                _destroy(sockets, identity)


def _address(family: int, packed: bytes) -> IPAddress:
    if family == socket.AF_INET:
        return ip_address(packed[:4])
    address = IPv6Address(packed)
    return address.ipv4_mapped or address


def _destroy(sockets: NetlinkSocket, identity: bytes) -> None:
    try:
        sockets.request(_DESTROY, ACK, identity)
    except OSError as error:
        if error.errno != errno.ENOENT:  # else it has ended by itself
            raise
