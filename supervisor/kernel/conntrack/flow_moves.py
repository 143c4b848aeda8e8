"""Moves running flows from one working tunnel to another without losing a packet in either direction.

Source NAT ties a flow to the address that it left with: through another tunnel it must restart, with that
tunnel's address. So its conntrack entry is deleted between two packets. Answers that are still on their way
to the old address get an entry of their own for some seconds. Both entries would match the packets that staff
send; so that direction of the short-lived one is put into a conntrack zone that no packet uses.

    flow, lane 1:   staff:5000 -> site:80,  answers: site:80 -> tunnel 1:5000
    forgotten, and for a moment:            site:80 -> tunnel 1:5000 becomes site:80 -> staff:5000
    next packet:    staff:5000 -> site:80,  answers: site:80 -> tunnel 2:5000
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from common.netlink import CREATE, EXCLUSIVE, NESTED, NetlinkRequest, NetlinkSocket, attribute, attributes
from supervisor.core.network.flow_counting import blocks
from supervisor.core.network.lanes import FIRST_LANE, FIRST_MEMBER, HOST_FLAG, LAST_LANE, LAST_MEMBER
from supervisor.kernel.conntrack import dump as ct

ALL_LANES = (*range(FIRST_LANE, LAST_LANE + 1), *range(FIRST_MEMBER, LAST_MEMBER + 1))
FOLLOWED_FLOWS = 2_000  # of a lane, whose answers are waited for; the others are forgotten at once
LINGER_SECONDS = 10  # that such an entry lives without a packet
_ORIGINAL, _REPLY, _STATUS, _NAT_SOURCE, _TIMEOUT, _ID, _NAT_DESTINATION = 1, 2, 3, 6, 7, 12, 13
_ADDRESSES, _PROTOCOL, _TUPLE_ZONE = 1, 2, 3
_SEEN_REPLY, _ASSURED, _CONFIRMED = 1 << 1, 1 << 2, 1 << 3
_TCP, _UDP = 6, 17
_ZONE = 173  # conntrack zone for tuples that must match no packet
_BATCH = 100  # flows in one datagram, so that other threads have their turn


class Endpoints(NamedTuple):
    """One direction of a flow: packed addresses, IP protocol, packed ports."""

    source: bytes
    destination: bytes
    protocol: int
    source_port: bytes
    destination_port: bytes

    def turned(self) -> Endpoints:
        """The other direction, without NAT."""
        return Endpoints(
            self.destination, self.source, self.protocol, self.destination_port, self.source_port
        )


class FlowTuple(NamedTuple):
    """A conntrack entry: its tuples in both directions."""

    family: int
    original: bytes  # as the kernel packed it
    number: bytes  # tells the entry from a later one with the same addresses
    way: Endpoints
    answers: Endpoints


async def forget(marks: Iterable[int]) -> None:
    """Delete the conntrack entries with these marks, in a thread. OSError when the kernel cannot do that."""
    for mark in marks:
        # The sockets are made here, in the network namespace of this thread.
        await asyncio.to_thread(_forget, ct.conntrack_socket(), ct.conntrack_socket(), mark)


def end(netlink: NetlinkSocket, lanes: Iterable[int], flagged: bool = False) -> None:
    """Forget all flows of these lanes for good; `flagged`: also those of the host itself, and the answers
    that are waited for.

    OSError when the kernel cannot do that.

    It takes the kernel a millisecond or some. A thread would take longer until it has its turn, and packets
    are lost until this is done.
    """
    for mark, mask in blocks(lanes):
        ct.forget(netlink, mark, mask & ~HOST_FLAG if flagged else mask)


def _forget(reading: NetlinkSocket, writing: NetlinkSocket, mark: int) -> None:
    with reading, writing:
        flows = list(itertools.islice(_flows(reading, mark), FOLLOWED_FLOWS))
        # What the kernel says to a single flow is not read: one that is gone already is forgotten.
        for start in range(0, len(flows), _BATCH):
            writing.send(*(part for flow in flows[start : start + _BATCH] for part in _moves(flow, mark)))
        ct.forget(writing, mark)  # more than those, and what is new since then


def _flows(netlink: NetlinkSocket, mark: int) -> Iterator[FlowTuple]:
    return (flow for body in ct.entries(netlink, mark) if (flow := read(body)) is not None)


def read(body: bytes) -> FlowTuple | None:
    """The flow in an entry as the kernel tells it; None: of a protocol without ports, where answers cannot
    be told apart so easily.
    """
    values = dict(attributes(body[ct.HEADER_BYTES :]))
    way, answers = _endpoints(values[_ORIGINAL]), _endpoints(values[_REPLY])
    if way is None or answers is None:
        return None
    return FlowTuple(body[0], values[_ORIGINAL], values[_ID], way, answers)


def _endpoints(packed: bytes) -> Endpoints | None:
    parts = dict(attributes(packed))
    addresses, protocol = (
        [body for _, body in attributes(parts[_ADDRESSES])],
        dict(attributes(parts[_PROTOCOL])),
    )
    if protocol[1][0] not in (_TCP, _UDP):
        return None
    return Endpoints(addresses[0], addresses[1], protocol[1][0], protocol[2], protocol[3])


def _moves(flow: FlowTuple, mark: int) -> Iterator[NetlinkRequest]:
    """Forget it; then the entry for answers that are on their way, marked so that it belongs to the lane
    and counts as no flow of it.
    """
    yield ct.request(
        ct.DELETE, 0, flow.family, attribute(_ORIGINAL | NESTED, flow.original) + attribute(_ID, flow.number)
    )
    yield ct.request(
        ct.NEW,
        CREATE | EXCLUSIVE,
        flow.family,
        b"".join(
            (
                attribute(_ORIGINAL | NESTED, _packed(flow.answers)),
                attribute(
                    _REPLY | NESTED,
                    _packed(flow.answers.turned()) + attribute(_TUPLE_ZONE, struct.pack(">H", _ZONE)),
                ),
                attribute(_STATUS, struct.pack(">I", _SEEN_REPLY | _ASSURED | _CONFIRMED)),
                attribute(_TIMEOUT, struct.pack(">I", LINGER_SECONDS)),
                attribute(ct.MARK, struct.pack(">I", mark | HOST_FLAG)),
                attribute(_NAT_DESTINATION | NESTED, _translation(flow.way.source, flow.way.source_port)),
                attribute(
                    _NAT_SOURCE | NESTED, _translation(flow.way.destination, flow.way.destination_port)
                ),
            )
        ),
    )


def _packed(way: Endpoints) -> bytes:
    first = 1 if len(way.source) == 4 else 3
    addresses = attribute(first, way.source) + attribute(first + 1, way.destination)
    protocol = (
        attribute(1, bytes([way.protocol]))
        + attribute(2, way.source_port)
        + attribute(3, way.destination_port)
    )
    return attribute(_ADDRESSES | NESTED, addresses) + attribute(_PROTOCOL | NESTED, protocol)


def _translation(address: bytes, port: bytes) -> bytes:
    low, high = (1, 2) if len(address) == 4 else (4, 5)
    return (
        attribute(low, address)
        + attribute(high, address)
        + attribute(3 | NESTED, attribute(1, port) + attribute(2, port))
    )
