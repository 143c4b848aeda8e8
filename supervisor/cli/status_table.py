"""`facilitator status` as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from supervisor.cli.console import screen
from supervisor.cli.table import MIN_FOLDED_WIDTH
from supervisor.core.humanize import byte_size, duration
from supervisor.core.session.reasons import must_be_cured
from supervisor.core.views.drain_text import flows_left

if TYPE_CHECKING:
    from supervisor.cli.tunnel_detail import Traffic
    from supervisor.core.views.documents import ConditionEntry, StatusDocument, TargetEntry, TunnelStatus

_COLOURS = {
    "up": "green",
    "starting": "yellow",
    "backoff": "yellow",
    "stopping": "yellow",
    "stopped": "dim",
    "failed": "red",
}
_HEALTHS = {"healthy": "green", "degraded": "yellow"}
_OTHER_SESSION = {"coming": ", next session starts", "leaving": ", last session drains"}
_COLUMNS = ("TUNNEL", "KIND", "STATE", "FOR", "CARRIES", "ADDRESS", "RTT", "RECONNECTS", "WHY")
_WIDE = ("RECEIVED", "SENT", "INTERFACE", "MTU")  # of `-o wide`, before the last column
_NO_TERMINAL_WIDTH = 200
_FOLDED = ("CARRIES", "WHY")
# Left out where the terminal is narrow, the least important first.
_DROPPED_FIRST = ("RECONNECTS", "RTT", "ADDRESS", "KIND")


def print_status(
    document: StatusDocument, traffic: Mapping[str, Traffic] | None = None, details: Iterable[Text] = ()
) -> None:
    """Print the table and the lines below it."""
    console = screen()
    console.print(Group(status_view(document, console.width, traffic), *details))


def status_view(
    document: StatusDocument, width: int = _NO_TERMINAL_WIDTH, traffic: Mapping[str, Traffic] | None = None
) -> Group:
    """A headline, the conditions, and one row per tunnel, for a terminal of `width` characters. `traffic`:
    of every tunnel, for the wide table.
    """
    tunnels = document["tunnels"]
    up = sum(1 for entry in tunnels if entry["phase"] == "up" and entry["health"] != "unhealthy")
    headline = Text(
        f"{document['facilitator']}  {up} of {len(tunnels)} tunnels up, running for "
        f"{age(document['started'])}"
    )
    if closed := document.get("closed_since"):
        headline.append(f", host closed for {age(closed)}")
    if names := document.get("names"):
        failing = f", {names['failures_per_second']:.1f} failures/s" if names["failures_per_second"] else ""
        headline.append(f", {names['questions_per_second']:.1f} names/s{failing}")
    if document["draining"]:
        headline.append("  draining", "yellow")
    rows = [dict(zip(_COLUMNS, _row(entry), strict=True)) for entry in tunnels]
    columns = list(_COLUMNS)
    if traffic is not None:
        columns[-1:-1] = _WIDE
        for row, entry in zip(rows, tunnels, strict=True):
            row |= dict(zip(_WIDE, _wide(entry, traffic.get(entry["name"])), strict=True))
    table = Table(box=None, pad_edge=False, header_style="bold")
    shown = _fitting(rows, width, columns)
    for column in shown:
        table.add_column(column, no_wrap=column not in _FOLDED, overflow="fold", min_width=len(column))
    for row in rows:
        table.add_row(*(row[column] for column in shown))
    conditions = [_condition(each) for each in document.get("conditions", ())]
    targets = [_target(each) for entry in tunnels for each in entry.get("targets", ())]
    details = (*targets, *map(_name_servers, tunnels)) if len(tunnels) == 1 else ()
    return Group(headline, *conditions, Text(), table, *details)


def _name_servers(entry: TunnelStatus) -> Text:
    """Those that the gateway of a tunnel that was asked about alone has pushed."""
    session = entry["session"]
    pushed = [] if session is None else session.get("name_servers", [])
    return Text(f"name servers pushed: {', '.join(pushed) or 'none'}")


def _target(each: TargetEntry) -> Text:
    """One probe target, of a tunnel that was asked about alone."""
    lies_in = "" if each["destination"] is None else f" (in {each['destination']})"
    line = Text(f"target {each['target']}{lies_in}: ")
    if each["silent_since"] is not None:
        return line.append(f"silent for {age(each['silent_since'])}", "red")
    return line.append("answers", "green") if each["answers"] else line.append("not known yet", "dim")


def _condition(each: ConditionEntry) -> Text:
    return Text(
        f"{each['name']}: {each['text']}", "yellow" if each["severity"] in ("warning", "info") else "red"
    )


def _wide(entry: TunnelStatus, traffic: Traffic | None) -> tuple[Text, ...]:
    session = entry["session"]
    device, mtu = (None, None) if session is None else (session["device"], session["path_mtu"])
    cells = (
        "-" if traffic is None else byte_size(traffic.received),
        "-" if traffic is None else byte_size(traffic.sent),
        device or "-",
        "-" if mtu is None else str(mtu),
    )
    return tuple(map(Text, cells))


def _fitting(rows: list[dict[str, Text]], width: int, columns: Sequence[str]) -> list[str]:
    """The columns that fit."""
    needs = {column: max([len(column), *(row[column].cell_len for row in rows)]) for column in columns}
    needs |= {column: min(needs[column], MIN_FOLDED_WIDTH) for column in _FOLDED}
    shown = list(columns)
    for column in _DROPPED_FIRST if len(columns) == len(_COLUMNS) else ():  # wide is as wide as it is
        if sum(needs[name] + 2 for name in shown) - 2 > width:
            shown.remove(column)
    return shown


def _row(entry: TunnelStatus) -> tuple[Text, ...]:
    """One cell per column, as `Text`: a client's output may look like rich's markup."""
    session = entry["session"]
    address = None if session is None else session["address"] or session["peer"]
    rtt = entry["probe_rtt_seconds"]
    cells: tuple[Text | str, ...] = (
        entry["name"],
        entry["kind"],
        _state(entry),
        age(entry["since"]),
        ", ".join(entry["carries"]) or "-",
        address or "-",
        f"{rtt * 1000:.0f} ms" if rtt is not None else "-",
        str(entry["reconnects"]),
        _why(entry),
    )
    return tuple(cell if isinstance(cell, Text) else Text(cell) for cell in cells)


def _state(entry: TunnelStatus) -> Text:
    phase, health = entry["phase"], entry["health"]
    known = phase == "up" and health != "unknown"
    if known and health == "healthy" and entry.get("degraded"):
        health = "degraded"
    colour = _COLOURS.get(phase, "") if not known else _HEALTHS.get(health, "red")
    other = entry.get("other_session")
    beside = "" if other is None else _OTHER_SESSION.get(other["role"], "")
    return Text(f"{phase}, {health}" if known else phase, colour).append(
        ", draining" if entry["drain"] else beside, "yellow"
    )


def _why(entry: TunnelStatus) -> str:
    """Why it is not up: the question, or the reason and the error, and what happens next."""
    if entry["asks"] is not None:
        return f"asks: {entry['asks']['text']}; facilitator answer {entry['name']}"
    if (code_at := entry.get("waits_for_code")) is not None:
        return f"waits {_seconds_until(code_at)} for the next code"
    lock = entry.get("lock")
    if lock is not None and lock["text"] is not None and entry["phase"] == "backoff":
        return lock["text"]
    if entry["drain"] is not None and entry["phase"] == "up":
        return flows_left(entry["drain"])
    if entry["phase"] == "up" and entry["health"] != "unhealthy":
        return str(entry.get("degraded") or entry["reason"])
    dead = f"{entry['leg']} dead: " if entry.get("leg") else ""
    parts = [
        dead
        + (entry["last_error"] if entry["phase"] != "stopped" and entry["last_error"] else entry["reason"])
    ]
    if entry["next_attempt"] is not None:
        parts.append(f"next attempt in {_seconds_until(entry['next_attempt'])}")
    url = entry.get("runbook_url")
    if url is not None and must_be_cured(url.rpartition("#")[2]):
        parts.append(f"see {url}")
    if entry.get("not_retried") is not None:
        parts.append(f"not tried again: {entry['not_retried']} {entry['name']}")
    return "; ".join(parts)


def _seconds_until(moment: str) -> str:
    left = (_moment(moment) - datetime.now(UTC)).total_seconds()
    return f"{max(0.0, left):.0f} s"


def age(moment: str) -> str:
    """How long ago an ISO 8601 moment was, in words."""
    return duration((datetime.now(UTC) - _moment(moment)).total_seconds())


def _moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
