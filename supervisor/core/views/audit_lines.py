"""The entries of the audit and their JSON lines: flows through tunnels, changes that somebody asked for, and
gaps.

    kernel.conntrack.flow_events -> FlowRecord, Gap -+
    control socket, signals ------> AuditEvent ------+-> reports.audit.writer -> lines of the file

The writer looks up tunnel, session and segment of a flow in `FlowNames`.
"""

from __future__ import annotations

import enum
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, NamedTuple, TypedDict

from supervisor.core.identity.book import Holding
from supervisor.core.network.access import Segment
from supervisor.core.network.plan import Carry, Lane, NetworkPlan
from supervisor.core.views.documents import SourceTotalsEntry

_PROTOCOLS: Mapping[int, str] = {
    1: "icmp",
    6: "tcp",
    17: "udp",
    33: "dccp",
    47: "gre",
    58: "icmpv6",
    132: "sctp",
    136: "udplite",
}
_TCP = 6
# How a TCP connection ended, by its last state (nf_conntrack_tcp.h, enum tcp_conntrack).
_ENDS: Mapping[int, str] = {
    1: "unanswered",
    2: "unanswered",
    3: "idle",
    4: "closed",
    5: "closed",
    6: "closed",
    7: "closed",
    8: "reset",
}
_CACHED_SOURCES = 4096  # whose segments are kept
OTHERS = "others"  # in the totals: all sources beyond MAX_SOURCES
MAX_SOURCES = 4096  # pairs of tunnel and source that are counted one by one


class FlowChange(enum.StrEnum):
    """What happened to a flow."""

    OPEN = "open"  # its first packet has passed
    ALREADY = "already-open"  # it existed when the audit began
    CLOSE = "close"  # connection tracking has removed it; its counters are final


class FlowRecord(NamedTuple):
    """A flow as connection tracking reported it. Addresses are packed; ports are 0 where the protocol has
    none.
    """

    change: FlowChange
    at: float  # Unix time
    lane: int
    id: int  # the kernel's number; the same when it opens and when it closes
    protocol: int  # of IP
    source: bytes
    source_port: int
    destination: bytes  # as staff address it
    destination_port: int
    real: bytes  # source of the answers: the address behind a 1:1 mapping, or our proxy
    real_port: int
    sent: tuple[int, int] | None = None  # packets and bytes from staff; None: not counted (nf_conntrack_acct)
    received: tuple[int, int] | None = None  # those of the answers
    began: float | None = None  # Unix time; None: not recorded (nf_conntrack_timestamp)
    state: int = 0  # of TCP, from enum tcp_conntrack; 0: not known


class Gap(NamedTuple):
    """Entries between two moments (Unix time) are missing. `lost`: how many, by kind; empty: not known."""

    cause: str
    since: float
    until: float
    lost: Mapping[str, int] = {}


class AuditEvent(NamedTuple):
    """A change that somebody asked for, or the start or end of the audit."""

    event: str  # control, audit-start, audit-stop
    at: float  # Unix time
    details: Mapping[str, Any]


class Requester(TypedDict, total=False):
    """Who asked for a change: the process at the other end of the control socket, or a signal."""

    uid: int
    user: str | None
    pid: int
    signal: str


class ChangeRequest(TypedDict):
    """An attempt to change something, as the log and the audit note it."""

    action: str
    tunnel: str | None
    by: Requester | None  # None: the process was gone before it could be asked for
    result: str  # done, refused, failed or interrupted
    why: str | None


Entry = FlowRecord | Gap | AuditEvent
Take = Callable[[list[Entry]], None]


def lost_kind(entry: Entry) -> str:
    """The kind under which a gap counts this entry."""
    match entry:
        case FlowRecord():
            return entry.change.value
        case Gap():
            return "gap"
        case AuditEvent():
            return entry.event


class FlowNames:
    """Tunnels by lane, segments by address, and real addresses under one plan. For one thread."""

    def __init__(self, plan: NetworkPlan, before: FlowNames | None = None) -> None:
        """`before`: names under the plan before, for flows in lanes that this one has no longer."""
        self.plan = plan
        earlier = {} if before is None else before._lanes
        self._lanes: Mapping[int, Lane] = {**earlier, **{lane.number: lane for lane in plan.lanes}}
        self._mapped: tuple[Carry, ...] = tuple(
            carry for carry in plan.carries if carry.real is not carry.network
        )
        self._segments: dict[bytes, str] = {}

    def tunnel(self, lane: int) -> str | None:
        """The tunnel of a lane; None: a tunnel of an earlier daemon."""
        found = self._lanes.get(lane)
        return None if found is None else found.tunnel

    def segment(self, source: bytes) -> str:
        """The staff segment with the smallest network that contains the source; "": none does."""
        found = self._segments.get(source)
        if found is None:
            if len(self._segments) >= _CACHED_SOURCES:
                self._segments.clear()
            found = self._segments[source] = _segment(self.plan.segments, source)
        return found

    def real(self, flow: FlowRecord) -> tuple[bytes, int]:
        """The real destination. Through a proxy that is not the source of the answers; the mapped address is
        computed here, as the proxy does.
        """
        lane = self._lanes.get(flow.lane)
        if lane is None or lane.device is not None:
            return flow.real, flow.real_port
        address = ip_address(flow.destination)
        for carry in self._mapped:
            if carry.lane == flow.lane and address in carry.network:
                behind = int(carry.real.network_address) + int(address) - int(carry.network.network_address)
                return behind.to_bytes(len(flow.destination), "big"), flow.destination_port
        return flow.destination, flow.destination_port


def _segment(segments: tuple[Segment, ...], source: bytes) -> str:
    address = ip_address(source)
    around = [
        (network.prefixlen, segment.name)
        for segment in segments
        for network in segment.networks
        if address in network
    ]
    return max(around)[1] if around else ""


def flow_line(
    flow: FlowRecord,
    tunnel: str | None,
    session: str | None,
    segment: str,
    real: tuple[bytes, int],
    person: str = "",
) -> str:
    """The line about a flow. Formatted by hand, because there are thousands a second; every part is a number
    or a validated name, or JSON (`person`: from `person_keys`).
    """
    head = (
        f'{{"time":"{stamp(flow.at)}","event":"{flow.change.value}","tunnel":{_text(tunnel)},"session":{_text(session)},"flow":{flow.id}'
        f',"protocol":"{_PROTOCOLS.get(flow.protocol) or flow.protocol}","source":"{_address(flow.source)}"'
        f',"source_port":{flow.source_port},"segment":{_text(segment or None)}{person},"destination":"{_address(flow.destination)}"'
        f',"destination_port":{flow.destination_port},"real":"{_address(real[0])}","real_port":{real[1]}'
    )
    if flow.change is FlowChange.OPEN:
        return head + "}\n"
    began = "null" if flow.began is None else f'"{stamp(flow.began)}"'
    counted = f'{_counted("sent", flow.sent)}{_counted("received", flow.received)},"began":{began}'
    if flow.change is FlowChange.ALREADY:
        return f"{head}{counted}}}\n"
    duration = "null" if flow.began is None else f"{max(0.0, flow.at - flow.began):.3f}"
    return f'{head}{counted},"duration":{duration},"end":"{_end(flow)}"}}\n'


def person_keys(holding: Holding | None) -> str:
    """The keys of a flow's line that name the person behind its source; null: not known."""
    if holding is None:
        return ',"person":null,"staff_session":null'
    return f',"person":{json.dumps(holding.person)},"staff_session":{json.dumps(holding.session)}'


def began_at(flow: FlowRecord) -> float | None:
    """When the flow began (Unix time), by which its person is looked up; None: not known."""
    return flow.at if flow.began is None and flow.change is FlowChange.OPEN else flow.began


def line(entry: Gap | AuditEvent) -> str:
    """The line about a gap or an event."""
    if isinstance(entry, AuditEvent):
        return _json({"time": stamp(entry.at), "event": entry.event, **entry.details})
    return _json(
        {
            "time": stamp(entry.until),
            "event": "gap",
            "cause": entry.cause,
            "from": stamp(entry.since),
            "to": stamp(entry.until),
            "lost": dict(entry.lost) or None,
        }
    )


def stamp(at: float) -> str:
    """Unix time as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def parse_stamp(text: str) -> float:
    """Unix time of a text by `stamp`; ValueError."""
    return datetime.fromisoformat(text).timestamp()


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, separators=(",", ":")) + "\n"


def _text(word: str | None) -> str:
    return "null" if word is None else f'"{word}"'


def _counted(name: str, count: tuple[int, int] | None) -> str:
    packets, octets = ("null", "null") if count is None else count
    return f',"{name}_packets":{packets},"{name}_bytes":{octets}'


def _address(packed: bytes) -> str:
    return ".".join(map(str, packed)) if len(packed) == 4 else str(ip_address(packed))


def _end(flow: FlowRecord) -> str:
    if flow.protocol == _TCP:
        return _ENDS.get(flow.state, "idle")
    return "unanswered" if flow.received is not None and flow.received[0] == 0 else "idle"


# --- accounting
# ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Total:
    """Counters of one source through one tunnel."""

    opened: int = 0
    closed: int = 0
    sent_bytes: int = 0  # of flows that are closed
    received_bytes: int = 0


@dataclass
class Accounts:
    """Totals by tunnel, staff source and person since the audit began; bounded, for one thread."""

    totals: dict[tuple[str, bytes, str], Total] = field(default_factory=dict)
    others: dict[str, Total] = field(default_factory=dict)  # by tunnel: all sources beyond MAX_SOURCES
    events: Counter[str] = field(default_factory=Counter)

    def add(self, flow: FlowRecord, tunnel: str, person: str = "") -> None:
        """Count a flow. `person`: behind its source; "": not known."""
        key = tunnel, flow.source, person
        total = self.totals.get(key)
        if total is None:
            has_room = len(self.totals) < MAX_SOURCES
            total = (
                self.totals.setdefault(key, Total()) if has_room else self.others.setdefault(tunnel, Total())
            )
        if flow.change is not FlowChange.CLOSE:
            total.opened += 1
            return
        total.closed += 1
        total.sent_bytes += flow.sent[1] if flow.sent is not None else 0
        total.received_bytes += flow.received[1] if flow.received is not None else 0

    def document(self, tunnel: str | None, source: str | None, limit: int) -> list[SourceTotalsEntry]:
        """The largest totals, by bytes both ways; of one tunnel, of one source (an address or a person)."""
        named = [
            (name, _address(packed), person, total)
            for (name, packed, person), total in list(self.totals.items())
        ]
        named += [(name, OTHERS, "", total) for name, total in list(self.others.items())]
        wanted = [row for row in named if tunnel in (None, row[0]) and source in (None, row[1], row[2])]
        wanted.sort(key=lambda row: row[3].sent_bytes + row[3].received_bytes, reverse=True)
        return [
            {
                "tunnel": name,
                "source": address,
                "person": person or None,
                "flows": total.opened,
                "open": max(0, total.opened - total.closed),
                "sent_bytes": total.sent_bytes,
                "received_bytes": total.received_bytes,
            }
            for name, address, person, total in wanted[:limit]
        ]
