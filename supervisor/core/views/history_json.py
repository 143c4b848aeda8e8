"""What happened, as other programs see it: the JSON of `facilitator history` and `/api/v1/history`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from supervisor.core.humanize import iso
from supervisor.core.views.availability import Availability, Outage, Standing, death_class

DAY = 86400.0
PARTS = 48  # of the last day: half an hour each
_MOMENTS = frozenset({"at", "started", "connected", "ended", "opened", "closed"})


@dataclass(frozen=True, slots=True)
class TunnelHistory:
    """What the record says of one tunnel. `kind` None: it is not configured any more; `last_day` in equal
    parts.
    """

    name: str
    kind: str | None
    availability: Mapping[str, Availability]
    last_day: Sequence[Standing | None]


def chronicle(
    facilitator: str, tunnels: Iterable[TunnelHistory], rows: Mapping[str, Any], offset: float, limit: int
) -> dict[str, Any]:
    """The document. Times are ISO 8601 in UTC; `offset` turns the moments of outages into Unix time,
    `rows` have it already.

    Of each tunnel's outages the last `limit` are told.
    """
    return {
        "facilitator": facilitator,
        "problem": rows["problem"],
        "tunnels": [_tunnel(told, offset, limit) for told in tunnels],
        **{table: [_row(row) for row in found] for table, found in rows.items() if table != "problem"},
    }


def _tunnel(told: TunnelHistory, offset: float, limit: int) -> dict[str, Any]:
    longest = max(told.availability.values(), key=lambda a: a.end - a.start, default=None)
    outages = (
        []
        if longest is None
        else [_outage(outage, longest.end, offset) for outage in reversed(longest.outages)]
    )
    return {
        "name": told.name,
        "kind": told.kind,
        "configured": told.kind is not None,
        "availability": {window: _window(availability) for window, availability in told.availability.items()},
        "outages": outages[:limit],
        "last_day": [None if what is None else what.value for what in told.last_day],
    }


def _window(it: Availability) -> dict[str, Any]:
    deaths: dict[str, dict[str, int]] = {}
    for reason, count in sorted(it.deaths.items()):
        deaths.setdefault(death_class(reason), {})[reason] = count
    return {
        "ratio": it.ratio,
        **{f"{standing}_seconds": round(seconds, 3) for standing, seconds in it.seconds.items()},
        "failures": len(it.failures),
        "healed": it.healed,
        "by_hand": it.by_hand,
        "mttr_seconds": _rounded(it.mttr),
        "mtbf_seconds": _rounded(it.mtbf),
        "deaths": deaths,
    }


def _outage(it: Outage, now: float, offset: float) -> dict[str, Any]:
    return {
        "began": iso(it.began + offset),
        "ended": None if it.ended is None else iso(it.ended + offset),
        "seconds": round((now if it.ended is None else it.ended) - it.began, 3),
        "reason": it.reason,
        "planned": it.planned,
        "by_hand": it.by_hand,
    }


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: iso(value) if key in _MOMENTS and value is not None else _rounded(value)
        for key, value in row.items()
    }


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value
