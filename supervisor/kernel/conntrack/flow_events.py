"""Conntrack events (NEW, DESTROY) of flows in our lanes, read in a thread of its own, for the audit.

A socket filter (BPF) drops the events of flows without one of our marks, so those take no room in the buffer.
Beginnings and ends come through two sockets, so that the kernel's count of dropped events says which were
lost. A flow's beginning is in its socket before its end is in the other one: reading the ends first, then the
beginnings, gives an order.

Nothing here makes the kernel wait: what is not read in time is dropped there, counted, and recorded as a gap.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import structlog

from common.netlink import NETFILTER, SO_RCVBUFFORCE, SOL_NETLINK, NetlinkSocket, attributes
from supervisor.core.network.flow_counting import prefix
from supervisor.core.network.lanes import FIRST_LANE, LAST_LANE
from supervisor.core.views.audit_lines import Entry, FlowChange, FlowRecord, Gap, Take
from supervisor.kernel.conntrack import dump as ct

BUFFER_BYTES = 16 << 20  # of unread events, for each of both sockets: some seconds of many thousand flows
GATHER_SECONDS = 0.05  # in which more events arrive, once one has come
_MOST_EVENTS = 512  # of one sort in a round: some milliseconds, so that other threads have their turn
_BREATH_SECONDS = 0.005  # between two rounds when that was not all
_RETRY_SECONDS = 5.0  # after which flows are followed again where that failed
_GROUP_NEW, _GROUP_DESTROY = 1, 3  # NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_DESTROY
_NO_ENOBUFS = 5  # NETLINK_NO_ENOBUFS
_SO_ATTACH_FILTER, _SO_MEMINFO = 26, 55
_MEMINFO = struct.Struct("9I")  # the last one: messages that found no room (SK_MEMINFO_DROPS)
_ORIGINAL, _REPLY, _PROTOCOL_INFO, _SENT, _RECEIVED, _ID, _TIMES, _EVENT_TIME = 1, 2, 4, 9, 10, 12, 20, 27
_HEADERS_BYTES = 20  # struct nlmsghdr and struct nfgenmsg
_HEADER = struct.Struct("=HH")
_NUMBER, _MOMENT = struct.Struct(">I"), struct.Struct(">Q")
_TWO = struct.Struct(">4xQ4xQ")  # two attributes of eight bytes
_NANOSECONDS = 1e9
_TCP_STATE = 12  # where it stands: CTA_PROTOINFO > CTA_PROTOINFO_TCP > CTA_PROTOINFO_TCP_STATE
# A tuple by its length: addresses, protocol and ports stand where they always stand. (ICMP has an identifier
# instead of ports.)
_TUPLES = {48: struct.Struct(">8x4s4x4s8xB7xH6xH2x"), 72: struct.Struct(">8x16s4x16s8xB7xH6xH2x")}
_TUPLE4, _TUPLE6 = struct.Struct(">8x4s4x4s8xB"), struct.Struct(">8x16s4x16s8xB")
# What the filter says to the kernel (classic BPF, `struct sock_filter`): how much of a message whose CTA_MARK
# is one of ours.
_FILTER = (
    (0x00, 0, 0, _HEADERS_BYTES),
    (0x01, 0, 0, ct.MARK),
    (0x20, 0, 0, 0xFFFF_F000 + 12),  # find the attribute (SKF_AD_NLATTR)
    (0x15, 5, 0, 0),
    (0x07, 0, 0, 0),
    (0x40, 0, 0, 4),  # none: drop; load it
    (0x35, 0, 2, FIRST_LANE),
    (0x25, 1, 0, LAST_LANE),
    (0x06, 0, 0, 0xFFFF_FFFF),
    (0x06, 0, 0, 0),
)


class FlowEvents:
    """Tells `take`, in its own thread, of each flow that begins or ends in a lane of ours, and of what it
    missed.
    """

    def __init__(
        self, take: Take, buffer: int = BUFFER_BYTES, clock: Callable[[], float] = time.time
    ) -> None:
        self._take, self._buffer, self._clock = take, buffer, clock
        self._log = structlog.get_logger()
        self._end = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="flows", daemon=True)
        self.problem: str | None = None  # why flows are not seen at the moment

    def start(self) -> None:
        """Begin, in the network namespace of the calling thread: first with the flows that are there."""
        self._thread.start()

    def close(self, timeout: float = 2.0) -> None:
        """Tell what has happened so far, and end."""
        os.eventfd_write(self._end, 1)
        self._thread.join(timeout)

    def _run(self) -> None:
        ending = select.poll()
        ending.register(self._end, select.POLLIN)
        blind: float | None = None  # since when nothing is seen
        while True:
            try:
                self._watch(ending, blind)
                break
            except (OSError, struct.error, IndexError) as error:
                blind = self._clock() if blind is None else blind
                self._say(repr(error))
            if ending.poll(_RETRY_SECONDS * 1000):
                break
        os.close(self._end)

    def _watch(self, ending: select.poll, blind: float | None) -> None:
        with _Events(_GROUP_NEW, self._buffer) as begins, _Events(_GROUP_DESTROY, self._buffer) as ends:
            since = self._clock()
            there = list(_dumped(since))
            first = list(begins.read(FlowChange.OPEN, since))
            seen = {flow.id for flow in first}
            missed = [Gap(f"error: {self.problem}", blind, since)] if blind is not None else []
            self._take([*missed, *(flow for flow in there if flow.id not in seen), *first])
            self._say(None)
            anything = select.poll()
            for fd in (begins.fileno(), ends.fileno(), self._end):
                anything.register(fd, select.POLLIN)
            over, more = False, False
            while more or not over:
                anything.poll()
                over = bool(ending.poll((_BREATH_SECONDS if more else GATHER_SECONDS) * 1000))
                now = self._clock()
                told = list(_round(begins, ends, since, now))
                self._take(told)
                since, more = now, len(told) >= _MOST_EVENTS

    def _say(self, problem: str | None) -> None:
        if problem != self.problem:
            if problem is None:
                self._log.info("flows are followed again")
            else:
                self._log.error("flows cannot be followed", error=problem)
        self.problem = problem


def _round(begins: _Events, ends: _Events, since: float, now: float) -> Iterator[Entry]:
    """What happened in this time, in order."""
    closed = list(ends.read(FlowChange.CLOSE, now))
    yield from begins.read(FlowChange.OPEN, now)
    yield from closed
    for told, events in ((FlowChange.OPEN, begins), (FlowChange.CLOSE, ends)):
        dropped = events.dropped()
        if dropped:
            yield Gap("kernel-buffer", since, now, {told.value: dropped})


class _Events:
    """One group of events, of our lanes only. To be used as a context."""

    def __init__(self, group: int, buffer: int) -> None:
        self._netlink = NetlinkSocket(NETFILTER, timeout=0)
        self._sock = self._netlink.socket
        self._told = 0  # dropped messages that were told
        self._room = bytearray(1 << 16)
        try:
            self._listen(group, buffer)
        except OSError:
            self._netlink.close()
            raise

    def _listen(self, group: int, buffer: int) -> None:
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer // 2)  # the kernel doubles it
        except PermissionError:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer // 2)
        # Drop what finds no room and nothing else; the count tells.
        self._sock.setsockopt(SOL_NETLINK, _NO_ENOBUFS, 1)
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _FILTER))
        self._sock.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_FILTER), ctypes.addressof(code))
        )
        self._netlink.join(group)

    def __enter__(self) -> _Events:
        return self

    def __exit__(self, *_: object) -> None:
        self._netlink.close()

    def fileno(self) -> int:
        """For poll."""
        return self._sock.fileno()

    def read(self, told: FlowChange, now: float) -> Iterator[FlowRecord]:
        """What waits, up to a bound."""
        room, receive = self._room, self._sock.recv_into
        for _ in range(_MOST_EVENTS):
            try:
                size = receive(room)
            except BlockingIOError:
                return
            flow = parse(room, 0, size, told, now)
            if flow is not None:
                yield flow

    def dropped(self) -> int:
        """Messages that found no room since the last time."""
        count = int(_MEMINFO.unpack(self._sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))[-1])
        new, self._told = count - self._told, count
        return new % (1 << 32)


def parse(data: bytes | bytearray, start: int, end: int, told: FlowChange, now: float) -> FlowRecord | None:
    """The flow in one message of connection tracking, headers included; None: in no lane of ours, or of no
    known shape.
    """
    at: dict[int, int] = {}
    position = start + _HEADERS_BYTES
    header = _HEADER.unpack_from
    while position < end:
        length, kind = header(data, position)
        if length < 4:
            return None
        at[kind & 0x3FFF] = position
        position += (length + 3) & ~3
    if ct.MARK not in at or _ORIGINAL not in at or _REPLY not in at:
        return None
    lane = _NUMBER.unpack_from(data, at[ct.MARK] + 4)[0]
    if not FIRST_LANE <= lane <= LAST_LANE:
        return None
    source, destination, protocol, source_port, destination_port = _tuple(data, at[_ORIGINAL])
    real, _, _, real_port, _ = _tuple(data, at[_REPLY])
    began, *ended = _numbers(data, at[_TIMES]) if _TIMES in at else (0,)
    event = ended[0] if ended else 0
    if _EVENT_TIME in at:
        event = _MOMENT.unpack_from(data, at[_EVENT_TIME] + 4)[0]
    sent = _numbers(data, at[_SENT]) if _SENT in at else ()
    received = _numbers(data, at[_RECEIVED]) if _RECEIVED in at else ()
    return FlowRecord(
        told,
        event / _NANOSECONDS if event else now,
        lane,
        _NUMBER.unpack_from(data, at[_ID] + 4)[0] if _ID in at else 0,
        protocol,
        source,
        source_port,
        destination,
        destination_port,
        real,
        real_port,
        (sent[0], sent[1]) if sent else None,
        (received[0], received[1]) if received else None,
        began / _NANOSECONDS if began else None,
        data[at[_PROTOCOL_INFO] + _TCP_STATE] if _PROTOCOL_INFO in at else 0,
    )


def _tuple(data: bytes | bytearray, position: int) -> tuple[bytes, bytes, int, int, int]:
    """Source, destination, protocol and ports."""
    length = _HEADER.unpack_from(data, position)[0] - 4
    shape = _TUPLES.get(length)
    if shape is not None:
        return shape.unpack_from(data, position + 4)
    short = _TUPLE4 if _HEADER.unpack_from(data, position + 4)[0] == 20 else _TUPLE6
    return (*short.unpack_from(data, position + 4), 0, 0)


def _numbers(data: bytes | bytearray, position: int) -> tuple[int, ...]:
    """The numbers of eight bytes in an attribute; where the machine wants them aligned there are gaps
    between them.
    """
    length = _HEADER.unpack_from(data, position)[0]
    if length == 4 + _TWO.size:
        return _TWO.unpack_from(data, position + 4)
    inside = attributes(bytes(data[position + 4 : position + length]))
    return tuple(int.from_bytes(body, "big") for _, body in inside if len(body) == 8)


# --- flows that are there
# ----------------------------------------------------------------------------------------------------


def _dumped(now: float) -> Iterator[FlowRecord]:
    """All flows of our lanes. OSError."""
    with ct.conntrack_socket() as netlink:
        for body in ct.entries(netlink, *prefix((FIRST_LANE, LAST_LANE))):
            framed = bytes(_HEADERS_BYTES - 4) + body
            if (flow := parse(framed, 0, len(framed), FlowChange.ALREADY, now)) is not None:
                yield flow
