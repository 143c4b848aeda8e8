"""`facilitator history` as text: availability first, then the last sessions, incidents and transitions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from rich.console import Group
from rich.text import Text

from supervisor.cli.console import screen
from supervisor.cli.table import ResponsiveTable
from supervisor.core.humanize import byte_size, duration

if TYPE_CHECKING:
    from supervisor.core.views.documents import (
        HistoryDocument,
        IncidentRecord,
        SessionRecord,
        TransitionRecord,
        TunnelHistoryEntry,
        WindowEntry,
    )

Record = TypeVar("Record")

_STANDING_STYLES: Mapping[str, tuple[str, str]] = {
    "up": ("█", "green"),
    "degraded": ("▓", "yellow"),
    "down": ("▁", "red"),
    "unwatched": ("?", "magenta"),
    "stopped": ("·", "dim"),
}
_NONE = "-"

Part = Text | ResponsiveTable


def print_history(document: HistoryDocument, tunnel: str | None) -> None:
    """Print it: one tunnel in detail, or all in a row each."""
    console = screen()
    console.print(history_view(document, tunnel, console.width))


def history_view(document: HistoryDocument, tunnel: str | None, width: int) -> Group:
    """Headline, availability, sessions, incidents and, of one tunnel, its transitions, for a terminal
    of `width` characters.
    """
    parts: list[Part] = [
        Text(f"{document['facilitator']}  availability (while the tunnel was meant to be up)", "bold")
    ]
    if document["problem"]:
        parts.append(Text(document["problem"], "red"))
    parts += [
        Text(),
        *([_overview(document["tunnels"])] if tunnel is None else _windows(document["tunnels"][0])),
    ]
    parts += _section("sessions", document["sessions"], _sessions)
    parts += _section("incidents", document["incidents"], _incidents)
    if tunnel is not None:
        parts += _section("events", document["transitions"], _events)
    return Group(*(part.fitted(width) if isinstance(part, ResponsiveTable) else part for part in parts))


def percent(ratio: float | None) -> str:
    """A ratio as text, rounded down, so that 100 % means that nothing is missing."""
    return _NONE if ratio is None else f"{math.floor(ratio * 1e5) / 1e3:g} %"


# --- availability


def _overview(tunnels: Sequence[TunnelHistoryEntry]) -> ResponsiveTable:
    windows = list(dict.fromkeys(window for entry in tunnels for window in entry["availability"]))
    rows: list[Sequence[str | Text]] = []
    for entry in tunnels:
        known = entry["availability"]
        longest = known[windows[-1]] if known else None
        rows.append(
            (
                entry["name"],
                *(_ratio(known.get(window)) for window in windows),
                _since(longest),
                _day_strip(entry["last_day"]),
                *_failures(longest),
                _deaths(longest),
            )
        )
    last = windows[-1] if windows else ""
    return ResponsiveTable(
        (
            "TUNNEL",
            *windows,
            "SINCE",
            "LAST DAY",
            f"FAILURES {last}".strip(),
            "MANUAL",
            "MTTR",
            "MTBF",
            "END REASONS",
        ),
        rows,
    )


def _windows(entry: TunnelHistoryEntry) -> Iterator[Part]:
    rows = (
        (
            window,
            _ratio(it),
            _since(it),
            _span(it["up_seconds"]),
            _span(it["degraded_seconds"]),
            _span(it["down_seconds"]),
            _span(it["unwatched_seconds"]),
            _span(it["stopped_seconds"]),
            *_failures(it),
            _deaths(it),
        )
        for window, it in entry["availability"].items()
    )
    columns = (
        "LAST",
        "AVAILABLE",
        "SINCE",
        "UP",
        "DEGRADED",
        "DOWN",
        "NOT MONITORED",
        "STOPPED",
        "FAILURES",
        "MANUAL",
        "MTTR",
        "MTBF",
        "END REASONS",
    )
    yield Text(f"{entry['name']}  {entry['kind'] or 'no longer configured'}")
    yield ResponsiveTable(columns, rows)
    yield Text()
    yield Text("last day  ").append_text(_day_strip(entry["last_day"]))


def _ratio(it: WindowEntry | None) -> str:
    """Nothing while it was observed for too short a time: a first start that took minutes is no bad day."""
    return percent(it["ratio"] if it is not None and it.get("enough", True) else None)


def _since(it: WindowEntry | None) -> str:
    """Since when it is observed, if that is less than the window."""
    since = None if it is None else it.get("since")
    return _NONE if since is None else since[:16].replace("T", " ")


def _failures(it: WindowEntry | None) -> tuple[str, ...]:
    if it is None:
        return (_NONE,) * 4
    return str(it["failures"]), str(it["by_hand"]), _span(it["mttr_seconds"]), _span(it["mtbf_seconds"])


def _deaths(it: WindowEntry | None) -> str:
    classes = {} if it is None else it["deaths"]
    counts = {reason: count for reasons in classes.values() for reason, count in reasons.items()}
    return (
        ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items(), key=lambda pair: -pair[1]))
        or _NONE
    )


def _day_strip(parts: Sequence[str | None]) -> Text:
    """The last day, one character per half hour: the worst standing in it."""
    strip = Text()
    for part in parts:
        strip.append(*_STANDING_STYLES.get(part or "", (" ", "")))
    return strip


# --- sessions, incidents, transitions


def _section(
    title: str, rows: Sequence[Record], table: Callable[[Sequence[Record]], ResponsiveTable]
) -> Sequence[Part]:
    return (Text(), Text(title, "bold"), table(rows)) if rows else ()


def _sessions(rows: Sequence[SessionRecord]) -> ResponsiveTable:
    columns = (
        "STARTED",
        "TUNNEL",
        "ID",
        "INTERFACE",
        "ADDRESS",
        "LASTED",
        "FLOWS",
        "RECEIVED",
        "SENT",
        "ENDED BY",
    )
    return ResponsiveTable(
        columns,
        (
            (
                row["started"],
                row["tunnel"],
                row["id"][:8] or _NONE,
                row["device"] or _port(row),
                row["address"] or _NONE,
                _span(row["lasted"]) if row["ended"] else "active",
                _NONE if row["flows"] is None else str(row["flows"]),
                _bytes(row["received"]),
                _bytes(row["sent"]),
                _reason(row),
            )
            for row in rows
        ),
    )


def _incidents(rows: Sequence[IncidentRecord]) -> ResponsiveTable:
    return ResponsiveTable(
        ("OPENED", "CLOSED", "ABOUT", "SEVERITY", "TEXT"),
        (
            (
                row["opened"],
                row["closed"] or Text("open", "red"),
                row["name"],
                row["severity"],
                row["summary"],
            )
            for row in rows
        ),
    )


def _events(rows: Sequence[TransitionRecord]) -> ResponsiveTable:
    return ResponsiveTable(
        ("AT", "FROM", "TO", "HEALTH", "IN STATE", "ACTION", "REASON"),
        (
            (
                row["at"],
                row["before"],
                row["after"],
                row["health"],
                _span(row["lasted"]),
                row["rung"] or _NONE,
                _reason(row),
            )
            for row in rows
        ),
    )


def _reason(row: SessionRecord | TransitionRecord) -> str:
    return ": ".join(filter(None, (row["reason"], row["text"]))) or _NONE


def _port(row: SessionRecord) -> str:
    return f"port {row['port']}" if row["port"] else _NONE


def _bytes(count: int | None) -> str:
    return _NONE if count is None else byte_size(count)


def _span(seconds: float | None) -> str:
    if seconds is None or seconds == 0:
        return _NONE
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else duration(seconds)
