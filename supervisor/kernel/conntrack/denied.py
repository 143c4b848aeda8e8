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
from collections.abc import Collection, Iterator, Mapping
from ipaddress import IPv6Address, ip_address
from types import MappingProxyType

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

Cuts = Mapping[IPAddress, Collection[int] | None]  # by source: in these lanes; None: in all of them
NO_PORTS: Mapping[int, int] = MappingProxyType({})


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
            await end_flows(dict.fromkeys(new))
        except OSError as error:
            names = ", ".join(map(str, sorted(new, key=str)))
            self._note(f"the connections of {names} go on, because they cannot be ended: {error}", {})
        else:
            self._ended = wanted


async def end_flows(cuts: Cuts, ports: Mapping[int, int] = NO_PORTS) -> None:
    """End what these sources have under way, in a thread. `ports`: the local ports of proxies, each with its
    lane. OSError.
    """
    # The sockets are made here, in the network namespace of this thread.
    await asyncio.to_thread(_end, NetlinkSocket(SOCK_DIAG), ct.conntrack_socket(), cuts, ports)


def _end(sockets: NetlinkSocket, conntrack: NetlinkSocket, cuts: Cuts, ports: Mapping[int, int]) -> None:
    with sockets, conntrack:
        _close_proxied(sockets, cuts, ports)
        packed = {source.packed: lanes for source, lanes in cuts.items()}
        mark, mask = prefix(ALL_LANES)
        found = list(_flows_from(ct.entries(conntrack, mark, mask & ~HOST_FLAG), packed))
        for start in range(0, len(found), _BATCH):
            # What the kernel says to a single one is not read: a flow that is gone is gone.
            conntrack.send(*found[start : start + _BATCH])


def _flows_from(
    entries: Iterator[bytes], sources: Mapping[bytes, Collection[int] | None]
) -> Iterator[NetlinkRequest]:
    """The requests that delete the flows of these sources in these lanes; None: in all of them."""
    for body in entries:
        values = dict(attributes(body[ct.HEADER_BYTES :]))
        (_, source), *_ = attributes(dict(attributes(values[_ORIGINAL]))[_ADDRESSES])
        if source in sources:
            lanes = sources[source]
            lane = int.from_bytes(values.get(ct.MARK, b""), "big") & ~HOST_FLAG
            if lanes is None or lane in lanes:
                about = attribute(_ORIGINAL | NESTED, values[_ORIGINAL]) + attribute(_ID, values[_ID])
                yield ct.request(ct.DELETE, 0, body[0], about)


def _close_proxied(sockets: NetlinkSocket, cuts: Cuts, ports: Mapping[int, int]) -> None:
    for family in (socket.AF_INET, socket.AF_INET6):
        asked = struct.pack("=BBxxI48x", family, socket.IPPROTO_TCP, _NOT_LISTENING)
        for body in sockets.request(_BY_FAMILY, DUMP, asked):
            ours, peer = struct.unpack_from(">H2x16x16s", body, 4)
            source = _address(body[0], peer)
            if not FIRST_PORT <= ours <= LAST_PORT or source not in cuts:
                continue
            lanes = cuts[source]
            if lanes is None or ports.get(ours) in lanes:
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
