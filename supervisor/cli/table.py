"""The status table that a person wants to see."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from supervisor.core.words import lasting

_COLOURS = {"up": "green", "starting": "yellow", "backoff": "yellow", "stopping": "yellow", "stopped": "dim", "failed": "red"}


def print_status(document: dict[str, Any]) -> None:
    """Print the table; as wide as it needs to be where nobody looks at a terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(status_view(document))


def status_view(document: dict[str, Any]) -> Group:
    """A headline and one row per tunnel."""
    tunnels = document["tunnels"]
    up = sum(1 for entry in tunnels if entry["phase"] == "up" and entry["health"] != "unhealthy")
    headline = Text(f"{document['facilitator']}  {up} of {len(tunnels)} tunnels up, running for {age(document['started'])}")
    if document["draining"]:
        headline.append("  draining", "yellow")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("TUNNEL", "KIND", "STATE", "FOR", "CARRIES", "ADDRESS", "ANSWERS IN", "RECONNECTS"):
        table.add_column(column, no_wrap=column != "CARRIES")
    table.add_column("WHY", overflow="fold")
    for entry in tunnels:
        table.add_row(*_row(entry))
    return Group(headline, Text(), table)


def _row(entry: dict[str, Any]) -> tuple[Text | str, ...]:
    session = entry["session"] or {}
    rtt = entry["probe_rtt_seconds"]
    return (
        entry["name"],
        entry["kind"],
        _state(entry),
        age(entry["since"]),
        ", ".join(entry["carries"]) or "-",
        session.get("address") or session.get("peer") or "-",
        f"{rtt * 1000:.0f} ms" if rtt is not None else "-",
        str(entry["reconnects"]),
        _why(entry),
    )


def _state(entry: dict[str, Any]) -> Text:
    phase, health = entry["phase"], entry["health"]
    if phase == "up" and health != "unknown":
        return Text(f"up, {health}", "green" if health == "healthy" else "red")
    return Text(phase, _COLOURS.get(phase, ""))


def _why(entry: dict[str, Any]) -> str:
    """Why it is not up: the reason, the error, and what happens next."""
    if entry["phase"] == "up":
        return str(entry["reason"])
    parts = [entry["last_error"] if entry["phase"] != "stopped" and entry["last_error"] else entry["reason"]]
    if entry["next_attempt"] is not None:
        left = (_moment(entry["next_attempt"]) - datetime.now(UTC)).total_seconds()
        parts.append(f"next attempt in {max(0.0, left):.0f} s")
    if entry["phase"] == "failed":
        parts.append("waits for you: correct the secret or configuration, or `facilitator start`")
    return "; ".join(parts)


def age(moment: str) -> str:
    """How long ago an ISO 8601 moment was, in words."""
    return lasting((datetime.now(UTC) - _moment(moment)).total_seconds())


def _moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
