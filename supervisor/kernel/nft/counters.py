"""The counters of our table's elements: how often each tunnel refused which segment, and what went through
each lane.

They are read when somebody asks, in his thread. The socket is one of its own, so the loop that holds the
kernel to the plan is not asked.
"""

from __future__ import annotations

import functools
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from supervisor.core.network.access import refusals
from supervisor.core.network.intervals import Interval
from supervisor.core.network.layout import Part
from supervisor.core.network.plan import NetworkPlan
from supervisor.core.network.traffic import Carried
from supervisor.kernel.netlink.codec import attribute, attributes, messages
from supervisor.kernel.nft.elements import counted, counted_marks
from supervisor.kernel.nft.ruleset import TABLE, Ruleset, Set

_NETFILTER, _INET = 12, 1
_GET_ELEMENTS = 10 << 8 | 13  # nftables' part of netfilter; NFT_MSG_GETSETELEM
_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_ERROR, _DONE = 2, 3
_TABLE, _SET, _ELEMENTS = 1, 2, 3  # NFTA_SET_ELEM_LIST_*
_TIMEOUT = 1.0  # seconds
_DATAGRAM = 1 << 18
_FRESH = 0.2  # seconds: one reading serves all lanes of a scrape


def refused_packets(plan: NetworkPlan) -> Mapping[tuple[str, str], int]:
    """Packets by tunnel and segment ("": in no segment) since the table was made. Nothing when the kernel
    does not answer.
    """
    owners: dict[tuple[Part, ...], tuple[str, str]] = {
        (gate.lane, Interval(refusal.version, refusal.first, refusal.last)): (gate.tunnel, refusal.segment)
        for gate, refusal in refusals(plan.staff, plan.segments, plan.gates)
    }
    if not owners:
        return MappingProxyType({})
    counts = dict.fromkeys(owners.values(), 0)
    try:
        for described in (_sets()[f"refused{version}"] for version in (4, 6)):
            for element, packets, _ in counted(described, _element_lists(described.name)):
                owner = owners.get(element.key)
                if owner is not None:
                    counts[owner] += packets
    except OSError:
        return MappingProxyType({})
    return counts


class LaneCounts:
    """What went through each lane, by its number. For one thread at a time."""

    def __init__(self) -> None:
        self._read_at = float("-inf")
        self._counts: Mapping[int, Carried] = {}

    def __call__(self) -> Mapping[int, Carried]:
        """Since the table was made. Nothing when the kernel does not answer."""
        now = time.monotonic()
        if now - self._read_at > _FRESH:
            try:
                self._counts = _carried()
            except OSError:
                self._counts = {}
            self._read_at = now
        return self._counts


def _carried() -> Mapping[int, Carried]:
    flows, received, sent = (
        {
            lane: (packets, octets)
            for lane, packets, octets in counted_marks(_sets()[name], _element_lists(name))
        }
        for name in ("flows", "received", "sent")
    )
    return {
        lane: Carried(entered, received[lane][1], sent[lane][1])
        if lane in received and lane in sent
        else Carried(entered)
        for lane, (entered, _) in flows.items()
    }


@functools.cache
def _sets() -> Mapping[str, Set]:
    return {described.name: described for described in Ruleset.build().sets}


def _element_lists(name: str) -> Iterator[bytes]:
    request = (
        struct.pack("=BBH", _INET, 0, 0) + attribute(_TABLE, _text(TABLE)) + attribute(_SET, _text(name))
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER) as sock:
        sock.settimeout(_TIMEOUT)
        sock.send(struct.pack("=IHHII", 16 + len(request), _GET_ELEMENTS, _DUMP, 1, 0) + request)
        while True:
            for kind, _, body in messages(sock.recv(_DATAGRAM)):
                if kind == _ERROR:
                    code = -struct.unpack_from("=i", body)[0]
                    raise OSError(code, os.strerror(code))
                if kind == _DONE:
                    return
                yield from (
                    data for attribute_kind, data in attributes(body[4:]) if attribute_kind == _ELEMENTS
                )


def _text(value: str) -> bytes:
    return value.encode() + b"\x00"
