"""From whom packets came back in a lane: what users' own packets show of a tunnel whose probes go unanswered.

Only connections that were opened from here count, by their reply direction, and of TCP only those that were
established: a gateway that rejects what it does not carry proves nothing. Flows of the host itself (probes)
have another mark. Packets are counted where net.netfilter.nf_conntrack_acct is 1; else only new connections
show something.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Collection, Iterable, Mapping
from ipaddress import ip_address
from typing import NamedTuple

from common.netlink import NetlinkSocket, attributes
from supervisor.core.network.flow_counting import prefix
from supervisor.kernel.conntrack import dump as ct
from tunnels.networks import IPAddress

FRESH_SECONDS = 0.25  # one dump serves all lanes that are asked about in this time, and longer if it was dear
REST_PER_WORK = 20.0  # that much longer, in multiples of the processor time of the dump
ASKED_WITHIN_SECONDS = 75.0  # a lane that nobody has asked about for so long starts over
# CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_COUNTERS_REPLY
_ORIGINAL, _REPLY, _STATUS, _RECEIVED = 1, 2, 3, 10
_ADDRESSES, _PROTOCOL, _PROTOCOL_NUMBER, _PACKETS = 1, 2, 1, 1
_SOURCES = (1, 3)  # CTA_IP_V4_SRC, CTA_IP_V6_SRC
_SEEN_REPLY, _ASSURED = 1 << 1, 1 << 2  # IPS_*
_TCP = 6


class ReplyCount(NamedTuple):
    """What came back in one flow."""

    source: IPAddress  # whom the packets came from
    packets: int  # 1, where packets are not counted


Flows = Mapping[bytes, ReplyCount]  # by their original tuple: those in which anything came back


class _Look(NamedTuple):
    at: float  # monotonic seconds
    rest: float  # seconds for which it serves
    flows: Mapping[int, Flows]  # by lane


class LaneReplies:
    """From the event loop only. Nothing is read unless somebody asks."""

    def __init__(self) -> None:
        self._latest = _Look(float("-inf"), 0.0, {})
        self._before: dict[int, _Look] = {}  # by lane: what its last answer was made from
        self._lock = asyncio.Lock()

    async def __call__(self, lane: int, since: float) -> Collection[IPAddress]:
        """The addresses from which packets came back in this lane since it was asked about before, but not
        before `since` (monotonic seconds). Nothing the first time after that, and when the kernel does not
        answer.
        """
        async with self._lock:
            now = time.monotonic()
            self._before = {
                each: look for each, look in self._before.items() if now - look.at < ASKED_WITHIN_SECONDS
            }
            if lane not in self._latest.flows or now - self._latest.at > self._latest.rest:
                netlink = ct.conntrack_socket()  # here, in the network namespace of this thread
                self._latest = await asyncio.to_thread(_look, netlink, {*self._before, lane})
        before, self._before[lane] = self._before.get(lane), self._latest
        if before is None or before.at < since:
            return ()
        return grown(before.flows.get(lane, {}), self._latest.flows.get(lane, {}))


def grown(before: Flows, now: Flows) -> set[IPAddress]:
    """From whom more packets came back."""
    return {
        count.source for way, count in now.items() if way not in before or count.packets > before[way].packets
    }


def _look(netlink: NetlinkSocket, lanes: Collection[int]) -> _Look:
    """In a thread of its own."""
    began = time.thread_time()
    with netlink:
        try:
            flows = read(ct.entries(netlink, *prefix(lanes)), lanes)
        except OSError:
            flows = {}
    rest = FRESH_SECONDS + REST_PER_WORK * (time.thread_time() - began)
    return _Look(time.monotonic(), rest, flows)


def read(bodies: Iterable[bytes], lanes: Collection[int]) -> dict[int, dict[bytes, ReplyCount]]:
    """The flows of these lanes in which anything came back."""
    found: dict[int, dict[bytes, ReplyCount]] = {lane: {} for lane in lanes}
    for body in bodies:
        values = dict(attributes(body[ct.HEADER_BYTES :]))
        lane = _number(values.get(ct.MARK))
        if lane in found and (count := _count(values)) is not None:
            found[lane][values.get(_ORIGINAL, b"")] = count
    return found


def _count(values: Mapping[int, bytes]) -> ReplyCount | None:
    parts = dict(attributes(values.get(_REPLY, b"")))
    addresses = dict(attributes(parts.get(_ADDRESSES, b"")))
    protocol = dict(attributes(parts.get(_PROTOCOL, b""))).get(_PROTOCOL_NUMBER, b"\0")[0]
    proves = _ASSURED if protocol == _TCP else _SEEN_REPLY
    source = next((addresses[name] for name in _SOURCES if name in addresses), None)
    if source is None or not _number(values.get(_STATUS)) & proves:
        return None
    counted = dict(attributes(values.get(_RECEIVED, b""))).get(_PACKETS)
    return ReplyCount(ip_address(source), 1 if counted is None else int.from_bytes(counted, "big"))


def _number(packed: bytes | None) -> int:
    return 0 if packed is None else int(struct.unpack(">I", packed)[0])
