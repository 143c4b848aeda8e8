"""Counters of the kernel: packets that each tunnel refused, what went through each lane, bytes of each
interface.

They are read when somebody asks, in the thread of whoever asks. The socket is one of its own, so the loop
that holds the kernel to the plan is not asked.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

from common.netlink import DUMP, NETFILTER, NetlinkSocket, attributes
from supervisor.core.network.access import refusals
from supervisor.core.network.intervals import Interval
from supervisor.core.network.layout import Part
from supervisor.core.network.plan import NetworkPlan
from supervisor.core.network.traffic import Carried
from supervisor.kernel.nft.elements import counted, counted_marks
from supervisor.kernel.nft.messages import ELEMENTS_LIST, GET_ELEMENTS, HEADER_BYTES, elements_of, nft_request
from supervisor.kernel.nft.ruleset import Ruleset
from supervisor.kernel.nft.sets import Set

FRESH_SECONDS = 0.2  # one reading serves all that a scrape asks
_ANSWER_SECONDS = 1.0
_LANE_SETS = ("flows", "received", "sent")  # of our table: sets of lanes, with counters
# Of our own network namespace, unlike /sys, which shows the one that it was mounted in.
_DEVICES = "/proc/self/net/dev"
_READ_BYTES = 1 << 16  # at once

ReadT = TypeVar("ReadT")


class _ReadOnce(Generic[ReadT]):
    """Reads at most once in FRESH_SECONDS. For one thread at a time."""

    def __init__(self, read: Callable[[], ReadT]) -> None:
        self._read = read
        self._found: tuple[float, ReadT] | None = None  # with the monotonic seconds at which it was read

    def __call__(self) -> ReadT:
        now = time.monotonic()
        if self._found is None or now - self._found[0] > FRESH_SECONDS:
            self._found = now, self._read()
        return self._found[1]


class LinkBytes:
    """`(received, sent)` of an interface by name, or None where there is none. For one thread at a time."""

    def __init__(self) -> None:
        self._all = _ReadOnce(_link_bytes)

    def __call__(self, device: str) -> tuple[int, int] | None:
        """Bytes since the interface was made (proc(5), net/dev: columns 1 and 9)."""
        return self._all().get(device)


def link_bytes_now(device: str) -> tuple[int, int] | None:
    """`(received, sent)` of an interface, read now; None: there is none."""
    start = f"{device}:".encode()
    found = (line for line in _content(_DEVICES).splitlines() if line.lstrip().startswith(start))
    return next((_columns(line.partition(b":")[2]) for line in found), None)


class LaneCounts:
    """What went through each lane, by its number. For one thread at a time."""

    def __init__(self) -> None:
        self._all = _ReadOnce(self._read)
        self._data: Mapping[str, list[bytes]] = MappingProxyType({})  # what was last parsed, by set
        self._counts: Mapping[int, Carried] = MappingProxyType({})

    def __call__(self) -> Mapping[int, Carried]:
        """Since the table was made; the same object as long as nothing passes. Nothing when the kernel does
        not answer.
        """
        return self._all()

    def _read(self) -> Mapping[int, Carried]:
        try:
            with _opened() as netlink:
                data = {name: list(_element_lists(netlink, name)) for name in _LANE_SETS}
        except OSError:
            return MappingProxyType({})
        if data != self._data:
            self._data, self._counts = data, _lane_counts(data)
        return self._counts


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
        for key, packets in _refusal_counts():
            if key in owners:
                counts[owners[key]] += packets
    except OSError:
        return MappingProxyType({})
    return counts


def _refusal_counts() -> Iterator[tuple[tuple[Part, ...], int]]:
    with _opened() as netlink:
        for described in (_sets()[f"refused{version}"] for version in (4, 6)):
            for element, packets, _ in counted(described, _element_lists(netlink, described.name)):
                yield element.key, packets


def _link_bytes() -> Mapping[str, tuple[int, int]]:
    rows = (line.partition(b":") for line in _content(_DEVICES).splitlines()[2:])
    return {name.strip().decode(): _columns(numbers) for name, _, numbers in rows}


def _columns(numbers: bytes) -> tuple[int, int]:
    """Bytes received and sent, of a row of net/dev."""
    columns = numbers.split()
    return int(columns[0]), int(columns[8])


def _content(path: str) -> bytes:
    """Of a file in /proc: without the layers of a text file, because this is read once a second."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(descriptor, _READ_BYTES):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def _lane_counts(data: Mapping[str, list[bytes]]) -> Mapping[int, Carried]:
    flows, received, sent = (
        {lane: (packets, octets) for lane, packets, octets in counted_marks(_sets()[name], data[name])}
        for name in _LANE_SETS
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


def _opened() -> NetlinkSocket:
    return NetlinkSocket(NETFILTER, timeout=_ANSWER_SECONDS)


def _element_lists(netlink: NetlinkSocket, name: str) -> Iterator[bytes]:
    for body in netlink.answers(*nft_request(GET_ELEMENTS, DUMP, elements_of(name))):
        yield from (data for kind, data in attributes(body[HEADER_BYTES:]) if kind == ELEMENTS_LIST)
