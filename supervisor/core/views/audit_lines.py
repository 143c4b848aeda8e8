"""What the audit says, as values and as JSON lines: who connected where through which tunnel, who asked
the daemon for what, and what is
missing in between.

    kernel.conntrack.flow_events -> Flow, Gap +
    control socket, signals -> Act -+--> reports.audit.writer: Names tells what the numbers of a flow mean ->
    lines of the file
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
# How a TCP connection ended, by the state in which connection tracking forgot it (nf_conntrack_tcp.h, enum
# tcp_conntrack).
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
_REMEMBERED = 4096  # sources whose segment is remembered
OTHERS = "others"  # in the totals: the sources beyond MOST_SOURCES
MOST_SOURCES = 4096  # pairs of tunnel and source that are counted one by one


class FlowChange(enum.StrEnum):
    """What is said about a flow."""

    OPEN = "open"  # its first packet passed
    ALREADY = "already-open"  # it was there when the audit began
    CLOSE = "close"  # the kernel has forgotten it; only now its bytes are known


class FlowRecord(NamedTuple):
    """What connection tracking says about a flow at one moment. Addresses are packed; ports are 0 where
    the protocol has none.
    """

    told: FlowChange
    at: float  # Unix time
    lane: int
    id: int  # the kernel's number; the same when it opens and when it closes
    protocol: int  # of IP
    source: bytes
    source_port: int
    destination: bytes  # as staff address it
    destination_port: int
    real: bytes  # who answers: the destination behind a 1:1 mapping, or a proxy of ours
    real_port: int
    sent: tuple[int, int] | None = None  # packets and bytes from staff; None: the kernel did not count
    received: tuple[int, int] | None = None  # those of the answers
    began: float | None = None  # Unix time; None: the kernel did not note it
    state: int = 0  # of TCP, as the kernel numbers them; 0: not known


class Gap(NamedTuple):
    """Something is missing between two moments (Unix time). `lost` counts it by what it was; empty: nobody
    knows how much.
    """

    cause: str
    since: float
    until: float
    lost: Mapping[str, int] = {}


class Act(NamedTuple):
    """Somebody asked the daemon for something, or the daemon itself says what it does."""

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


Entry = FlowRecord | Gap | Act
Take = Callable[[list[Entry]], None]


def lost_kind(entry: Entry) -> str:
    """What is lost with this entry, in the words of a gap."""
    match entry:
        case FlowRecord():
            return entry.told.value
        case Gap():
            return "gap"
        case Act():
            return entry.event


class Names:
    """What lanes and addresses mean under one plan. Pure but for what it remembers; for one thread."""

    def __init__(self, plan: NetworkPlan, before: Names | None = None) -> None:
        """`before`: what holds for lanes of tunnels that are gone; their flows may still end."""
        self.plan = plan
        earlier = {} if before is None else before._lanes
        self._lanes: Mapping[int, Lane] = {**earlier, **{lane.number: lane for lane in plan.lanes}}
        self._mapped: tuple[Carry, ...] = tuple(
            carry for carry in plan.carries if carry.real is not carry.network
        )
        self._segments: dict[bytes, str] = {}

    def tunnel(self, lane: int) -> str | None:
        """Whose lane it is; None: of a tunnel that an earlier daemon had."""
        found = self._lanes.get(lane)
        return None if found is None else found.tunnel

    def segment(self, source: bytes) -> str:
        """The segment of staff with the smallest network around the source; "": in none."""
        found = self._segments.get(source)
        if found is None:
            if len(self._segments) >= _REMEMBERED:
                self._segments.clear()
            found = self._segments[source] = _segment(self.plan.segments, source)
        return found

    def real(self, flow: FlowRecord) -> tuple[bytes, int]:
        """Who is really spoken to. Behind a proxy that is not the one who answers, and the proxy maps
        addresses by itself.
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
    flow: FlowRecord, tunnel: str | None, session: str | None, segment: str, real: tuple[bytes, int]
) -> str:
    """The line about a flow. Put together by hand, because there are thousands a second; every part is a
    number or a checked word.
    """
    head = (
        f'{{"time":"{stamp(flow.at)}","event":"{flow.told.value}","tunnel":{_text(tunnel)},"session":{_text(session)},"flow":{flow.id}'
        f',"protocol":"{_PROTOCOLS.get(flow.protocol) or flow.protocol}","source":"{_address(flow.source)}"'
        f',"source_port":{flow.source_port},"segment":{_text(segment or None)},"destination":"{_address(flow.destination)}"'
        f',"destination_port":{flow.destination_port},"real":"{_address(real[0])}","real_port":{real[1]}'
    )
    if flow.told is FlowChange.OPEN:
        return head + "}\n"
    began = "null" if flow.began is None else f'"{stamp(flow.began)}"'
    counted = f'{_counted("sent", flow.sent)}{_counted("received", flow.received)},"began":{began}'
    if flow.told is FlowChange.ALREADY:
        return f"{head}{counted}}}\n"
    duration = "null" if flow.began is None else f"{max(0.0, flow.at - flow.began):.3f}"
    return f'{head}{counted},"duration":{duration},"end":"{_end(flow)}"}}\n'


def line(entry: Gap | Act) -> str:
    """The line about anything but a flow."""
    if isinstance(entry, Act):
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
    """A moment of Unix time as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def unstamp(text: str) -> float:
    """The moment that `stamp` wrote; ValueError."""
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
    """What one source did through one tunnel."""

    opened: int = 0
    closed: int = 0
    sent_bytes: int = 0  # of flows that are closed
    received_bytes: int = 0


@dataclass
class Accounts:
    """Totals by tunnel and staff source since the audit began; bounded, for one thread."""

    totals: dict[tuple[str, bytes], Total] = field(default_factory=dict)
    others: dict[str, Total] = field(default_factory=dict)  # by tunnel: the sources that found no room
    events: Counter[str] = field(default_factory=Counter)

    def add(self, flow: FlowRecord, tunnel: str) -> None:
        """Count what is said about a flow."""
        total = self.totals.get((tunnel, flow.source))
        if total is None:
            roomy = len(self.totals) < MOST_SOURCES
            total = (
                self.totals.setdefault((tunnel, flow.source), Total())
                if roomy
                else self.others.setdefault(tunnel, Total())
            )
        if flow.told is not FlowChange.CLOSE:
            total.opened += 1
            return
        total.closed += 1
        total.sent_bytes += flow.sent[1] if flow.sent is not None else 0
        total.received_bytes += flow.received[1] if flow.received is not None else 0

    def document(self, tunnel: str | None, source: str | None, limit: int) -> list[SourceTotalsEntry]:
        """The largest totals, by bytes both ways; of one tunnel, of one source."""
        named = [(name, _address(packed), total) for (name, packed), total in list(self.totals.items())]
        named += [(name, OTHERS, total) for name, total in list(self.others.items())]
        wanted = [row for row in named if tunnel in (None, row[0]) and source in (None, row[1])]
        wanted.sort(key=lambda row: row[2].sent_bytes + row[2].received_bytes, reverse=True)
        return [
            {
                "tunnel": name,
                "source": address,
                "flows": total.opened,
                "open": max(0, total.opened - total.closed),
                "sent_bytes": total.sent_bytes,
                "received_bytes": total.received_bytes,
            }
            for name, address, total in wanted[:limit]
        ]
