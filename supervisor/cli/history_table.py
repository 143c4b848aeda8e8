"""The history as a person wants to see it: numbers first, then the last sessions and events."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from rich.console import Group
from rich.table import Table
from rich.text import Text

from supervisor.cli.console import screen
from supervisor.core.humanize import lasting, size

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

_LOOKS: Mapping[str, tuple[str, str]] = {
    "up": ("█", "green"),
    "degraded": ("▓", "yellow"),
    "down": ("▁", "red"),
    "unwatched": ("?", "magenta"),
    "stopped": ("·", "dim"),
}
_NONE = "-"

_FOLDED_WIDTH = 18  # characters that the last column needs to be readable
_FIRST_TO_GO = (
    "ID",
    "LAST DAY",
    "DEVICE",
    "DEGRADED",
    "UNWATCHED",
    "STOPPED",
    "UP",
    "MTBF",
    "ADDRESS",
    "SEVERITY",
    "HEALTH",
    "1h",
    "7d",
    "BY HAND",
)


class Rows:
    """A table that leaves out columns where the terminal is narrow. Words that look like markup stay
    words.
    """

    def __init__(self, columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
        self._columns = columns
        self._rows = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]

    def shown(self, width: int) -> Table:
        """The table for a terminal of this many columns; only its last column may be folded."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        places = self._fitting(width)
        for place in places:
            last = place == places[-1]
            table.add_column(
                self._columns[place], no_wrap=not last, overflow="fold", min_width=len(self._columns[place])
            )
        for row in self._rows:
            table.add_row(*(row[place] for place in places))
        return table

    def _fitting(self, width: int) -> list[int]:
        needs = [
            max([len(column), *(row[place].cell_len for row in self._rows)])
            for place, column in enumerate(self._columns)
        ]
        needs[-1] = min(needs[-1], _FOLDED_WIDTH)
        places = list(range(len(self._columns)))
        for column in _FIRST_TO_GO:
            if column in self._columns and sum(needs[place] + 2 for place in places) - 2 > width:
                places.remove(self._columns.index(column))
        return places


Part = Text | Rows


def print_history(document: HistoryDocument, tunnel: str | None) -> None:
    """Print it; of one tunnel in all detail, of all in a row each."""
    place = screen()
    place.print(history_view(document, tunnel, place.width))


def history_view(document: HistoryDocument, tunnel: str | None, width: int) -> Group:
    """Headline, availability, sessions, incidents and, of one tunnel, its transitions, for a terminal of
    this many columns.
    """
    parts: list[Part] = [
        Text(f"{document['facilitator']}  availability, of the time in which a tunnel was wanted", "bold")
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
    return Group(*(part.shown(width) if isinstance(part, Rows) else part for part in parts))


def percent(ratio: float | None) -> str:
    """Rounded down, so that 100 % means that nothing is missing."""
    return _NONE if ratio is None else f"{math.floor(ratio * 1e5) / 1e3:g} %"


# --- numbers


def _overview(tunnels: Sequence[TunnelHistoryEntry]) -> Rows:
    windows = list(dict.fromkeys(window for entry in tunnels for window in entry["availability"]))
    rows: list[Sequence[str | Text]] = []
    for entry in tunnels:
        known = entry["availability"]
        longest = known[windows[-1]] if known else None
        rows.append(
            (
                entry["name"],
                *(percent(known[window]["ratio"] if window in known else None) for window in windows),
                _strip(entry["last_day"]),
                *_failures(longest),
                _deaths(longest),
            )
        )
    last = windows[-1] if windows else ""
    return Rows(
        ("TUNNEL", *windows, "LAST DAY", f"FAILURES {last}".strip(), "BY HAND", "MTTR", "MTBF", "DEATHS"),
        rows,
    )


def _windows(entry: TunnelHistoryEntry) -> Iterator[Part]:
    rows = (
        (
            window,
            percent(it["ratio"]),
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
        "UP",
        "DEGRADED",
        "DOWN",
        "UNWATCHED",
        "STOPPED",
        "FAILURES",
        "BY HAND",
        "MTTR",
        "MTBF",
        "DEATHS",
    )
    yield Text(f"{entry['name']}  {entry['kind'] or 'not configured any more'}")
    yield Rows(columns, rows)
    yield Text()
    yield Text("last day  ").append_text(_strip(entry["last_day"]))


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


def _strip(parts: Sequence[str | None]) -> Text:
    """The last day, a character for each half hour: the worst of it."""
    strip = Text()
    for part in parts:
        strip.append(*_LOOKS.get(part or "", (" ", "")))
    return strip


# --- what happened


def _section(title: str, rows: Sequence[Record], table: Callable[[Sequence[Record]], Rows]) -> Sequence[Part]:
    return (Text(), Text(title, "bold"), table(rows)) if rows else ()


def _sessions(rows: Sequence[SessionRecord]) -> Rows:
    columns = (
        "STARTED",
        "TUNNEL",
        "ID",
        "DEVICE",
        "ADDRESS",
        "LASTED",
        "FLOWS",
        "RECEIVED",
        "SENT",
        "ENDED BY",
    )
    return Rows(
        columns,
        (
            (
                row["started"],
                row["tunnel"],
                row["id"][:8] or _NONE,
                row["device"] or _port(row),
                row["address"] or _NONE,
                _span(row["lasted"]) if row["ended"] else "runs",
                _NONE if row["flows"] is None else str(row["flows"]),
                _bytes(row["received"]),
                _bytes(row["sent"]),
                _told(row),
            )
            for row in rows
        ),
    )


def _incidents(rows: Sequence[IncidentRecord]) -> Rows:
    return Rows(
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


def _events(rows: Sequence[TransitionRecord]) -> Rows:
    return Rows(
        ("AT", "FROM", "TO", "HEALTH", "AFTER", "TRIES", "WHY"),
        (
            (
                row["at"],
                row["before"],
                row["after"],
                row["health"],
                _span(row["lasted"]),
                row["rung"] or _NONE,
                _told(row),
            )
            for row in rows
        ),
    )


def _told(row: SessionRecord | TransitionRecord) -> str:
    return ": ".join(filter(None, (row["reason"], row["text"]))) or _NONE


def _port(row: SessionRecord) -> str:
    return f"port {row['port']}" if row["port"] else _NONE


def _bytes(count: int | None) -> str:
    return _NONE if count is None else size(count)


def _span(seconds: float | None) -> str:
    if seconds is None or seconds == 0:
        return _NONE
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else lasting(seconds)
