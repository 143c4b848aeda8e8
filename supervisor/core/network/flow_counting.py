"""Counts the live flows of draining lanes from successive dumps of conntrack.

    entries (`kernel.conntrack.flow_counter`) -> count(...) -> FlowsCounted per lane, and what to remember for
    the next look

An entry says when it will expire, and each packet of its flow moves that moment. So a flow was silent for as
long as it has not moved. Where a lane masquerades, the kernel forgets its flows with the tunnel's device, and
such a flow lives on: its next packet makes a new entry. So one that is gone before its time, and had not been
closed, is silent and not over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, collapse_addresses
from typing import NamedTuple

GRAIN_SECONDS = 1.5  # timeouts are whole seconds in the kernel, and a dump takes a moment


@dataclass(frozen=True, slots=True)
class FlowJob:
    """A draining lane: it takes no new flows, and its tunnel stops when those in it have ended."""

    tunnel: str
    idle: float  # seconds without a packet after which a flow does not count any more
    session: int | None = None  # whose lane, where a tunnel has two; None: the tunnel as such waits


class TrackedFlow(NamedTuple):
    """A conntrack entry. Times are monotonic seconds."""

    lane: int
    way: (
        bytes  # its original tuple (addresses, protocol, ports), as the kernel packed it: the key of the flow
    )
    over: bool  # TCP that both sides have closed, or one has reset: the entry is only a memory
    seen: float  # when this was read
    expires: float  # when the entry goes, if no packet comes
    silent: float  # seconds for which there was no packet at least, as far as the entry alone tells


class Trace(NamedTuple):
    """What is remembered of a flow from one dump to the next. Times are monotonic seconds."""

    lane: int
    expires: float  # as it was when the last packet was noticed
    active: float  # when that was


@dataclass(frozen=True, slots=True)
class Left:
    """The live flows of a lane."""

    flows: int = 0
    idle: float = 0.0  # seconds without a packet, of the longest idle one


Memory = Mapping[bytes, Trace]


def count(
    before: Memory, entries: Iterable[TrackedFlow], limits: Mapping[int, float], now: float
) -> tuple[Memory, dict[int, Left]]:
    """The new memory, and the live flows of each lane in `limits` (idle seconds after which a flow does not
    count).

    `entries`: all conntrack entries of these lanes at `now` (monotonic seconds).
    """
    gone = dict(before)
    memory: dict[bytes, Trace] = {}
    for entry in entries:
        known = gone.pop(entry.way, None)
        if entry.lane in limits and not entry.over:
            memory[entry.way] = _trace(known, entry)
    memory |= {way: trace for way, trace in gone.items() if trace.lane in limits and now < trace.expires}
    silences: dict[int, list[float]] = {lane: [] for lane in limits}
    for trace in memory.values():
        if (silence := _silence(trace, now)) < limits[trace.lane]:
            silences[trace.lane].append(silence)
    return memory, {lane: _left(each) for lane, each in silences.items()}


def _trace(before: Trace | None, entry: TrackedFlow) -> Trace:
    if before is None or before.lane != entry.lane:
        return Trace(entry.lane, entry.expires, entry.seen - entry.silent)
    return (
        before
        if abs(entry.expires - before.expires) <= GRAIN_SECONDS
        else Trace(entry.lane, entry.expires, entry.seen)
    )


def _silence(trace: Trace, now: float) -> float:
    return max(0.0, now - trace.active)


def _left(silences: Collection[float]) -> Left:
    return Left(len(silences), max(silences, default=0.0))


def blocks(lanes: Iterable[int]) -> list[tuple[int, int]]:
    """As few (mark, mask) pairs (32 bits) as possible that match these lanes and no others."""
    return [
        (int(each.network_address), int(each.netmask))
        for each in collapse_addresses(IPv4Network(lane) for lane in lanes)
    ]


def prefix(lanes: Collection[int]) -> tuple[int, int]:
    """One mark and mask (32 bits) that match all of these lanes and few others: the filter of a dump."""
    first = min(lanes)
    differing = 0
    for lane in lanes:
        differing |= lane ^ first
    mask = 0xFFFF_FFFF << differing.bit_length() & 0xFFFF_FFFF
    return first & mask, mask
