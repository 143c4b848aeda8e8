"""The history as JSON: the document of `facilitator history` and `/api/v1/history`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from supervisor.core.humanize import iso
from supervisor.core.views.availability import Availability, Outage, Standing, death_class
from supervisor.core.views.documents import (
    HistoryDocument,
    IncidentRecord,
    OutageEntry,
    SessionRecord,
    TransitionRecord,
    TunnelHistoryEntry,
    WindowEntry,
)

DAY_SECONDS = 86400.0
DAY_SLOTS = 48  # of the last day: half an hour each

Row = Mapping[str, Any]  # of the archive (`reports.history.archive`), by column; times are Unix time


@dataclass(frozen=True, slots=True)
class HistoryRows:
    """The latest rows of the archive, and why something is missing among them (`problem`)."""

    sessions: Sequence[Row] = ()
    transitions: Sequence[Row] = ()
    incidents: Sequence[Row] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class TunnelHistory:
    """Availability of one tunnel by window, and its last day in equal slots, oldest first. `kind` is None
    for a tunnel that is not configured any more.
    """

    name: str
    kind: str | None
    availability: Mapping[str, Availability]
    last_day: Sequence[Standing | None]


def history_document(
    facilitator: str, tunnels: Iterable[TunnelHistory], rows: HistoryRows, offset: float, limit: int
) -> HistoryDocument:
    """The document, with the last `limit` outages of each tunnel. `offset` turns the moments of
    `Availability` into Unix time.
    """
    return {
        "facilitator": facilitator,
        "problem": rows.problem,
        "tunnels": [_tunnel(each, offset, limit) for each in tunnels],
        "sessions": [_session(row) for row in rows.sessions],
        "transitions": [_transition(row) for row in rows.transitions],
        "incidents": [_incident(row) for row in rows.incidents],
    }


def _tunnel(it: TunnelHistory, offset: float, limit: int) -> TunnelHistoryEntry:
    longest = max(it.availability.values(), key=lambda a: a.end - a.start, default=None)
    latest_first = () if longest is None else tuple(reversed(longest.outages))[:limit]
    now = 0.0 if longest is None else longest.end
    return {
        "name": it.name,
        "kind": it.kind,
        "configured": it.kind is not None,
        "availability": {
            window: _window(availability, offset) for window, availability in it.availability.items()
        },
        "outages": [_outage(outage, now, offset) for outage in latest_first],
        "last_day": [None if slot is None else slot.value for slot in it.last_day],
    }


def _window(it: Availability, offset: float) -> WindowEntry:
    deaths: dict[str, dict[str, int]] = {}
    for reason, count in sorted(it.deaths.items()):
        deaths.setdefault(death_class(reason), {})[reason] = count
    return {
        "ratio": it.ratio,
        "enough": it.enough,
        "since": None if it.since is None else iso(it.since + offset),
        "up_seconds": round(it.seconds[Standing.UP], 3),
        "degraded_seconds": round(it.seconds[Standing.DEGRADED], 3),
        "down_seconds": round(it.seconds[Standing.DOWN], 3),
        "unwatched_seconds": round(it.seconds[Standing.UNWATCHED], 3),
        "stopped_seconds": round(it.seconds[Standing.STOPPED], 3),
        "failures": len(it.failures),
        "healed": it.healed,
        "by_hand": it.by_hand,
        "mttr_seconds": _milliseconds(it.mttr),
        "mtbf_seconds": _milliseconds(it.mtbf),
        "deaths": deaths,
    }


def _outage(it: Outage, now: float, offset: float) -> OutageEntry:
    return {
        "began": iso(it.began + offset),
        "ended": None if it.ended is None else iso(it.ended + offset),
        "seconds": round((now if it.ended is None else it.ended) - it.began, 3),
        "reason": it.reason,
        "planned": it.planned,
        "by_hand": it.by_hand,
    }


def _session(row: Row) -> SessionRecord:
    return {
        "tunnel": row["tunnel"],
        "id": row["id"],
        "kind": row["kind"],
        "device": row["device"],
        "port": row["port"],
        "address": row["address"],
        "peer": row["peer"],
        "started": iso(row["started"]),
        "connected": _moment(row["connected"]),
        "ended": _moment(row["ended"]),
        "lasted": _milliseconds(row["lasted"]),
        "reason": row["reason"],
        "text": row["text"],
        "received": row["received"],
        "sent": row["sent"],
        "flows": row["flows"],
    }


def _transition(row: Row) -> TransitionRecord:
    return {
        "at": iso(row["at"]),
        "tunnel": row["tunnel"],
        "session": row["session"],
        "before": row["before"],
        "after": row["after"],
        "health": row["health"],
        "standing": row["standing"],
        "reason": row["reason"],
        "text": row["text"],
        "lasted": round(row["lasted"], 3),
        "rung": row["rung"],
    }


def _incident(row: Row) -> IncidentRecord:
    return {
        "name": row["name"],
        "severity": row["severity"],
        "summary": row["summary"],
        "opened": iso(row["opened"]),
        "closed": _moment(row["closed"]),
    }


def _moment(unix: float | None) -> str | None:
    return None if unix is None else iso(unix)


def _milliseconds(seconds: float | None) -> float | None:
    """Rounded to the millisecond."""
    return None if seconds is None else round(seconds, 3)
