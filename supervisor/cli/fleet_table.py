"""`facilitator fleet status` as text: members, one row for each tunnel, and the orders that hold."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from supervisor.cli.console import screen
from supervisor.cli.status_table import age

if TYPE_CHECKING:
    from supervisor.core.views.documents import (
        FleetDocument,
        FleetMemberEntry,
        FleetOrderEntry,
        FleetTunnelEntry,
    )

_COLOURS = {"carries": "green", "ready": "cyan", "drains": "yellow", "down": "red", "waits": "dim"}
_SOURCES = {"engine": "lock engine", "members": "members' HTTP servers", "none": "this member alone"}
_CELL = 15  # characters of a member's column


def print_fleet(document: FleetDocument) -> None:
    """Print all of it."""
    console = screen()
    through = "" if document["member"] is None else f", asked through {document['member']}"
    console.print(Text(f"fleet {document['fleet']}{through} ({_SOURCES[document['source']]})"))
    for problem in document["problems"]:
        console.print(Text(problem, "yellow"))
    console.print()
    for member in document["members"]:
        console.print(_member(member))
    console.print()
    names = [member["name"] for member in document["members"]]
    if (len(names) + 2) * _CELL <= console.width:
        console.print(_matrix(document, names))
    else:
        for tunnel in document["tunnels"]:
            console.print(Text(f"{tunnel['name']}: {'; '.join(_grouped(tunnel))}"))
    if document["orders"]:
        console.print()
    for order in document["orders"]:
        console.print(_order(order))


def _member(member: FleetMemberEntry) -> Text:
    line = Text(f"{member['name']}  ")
    if member["up"]:
        line.append("up", "green")
        line.append("" if not member["version"] else f", version {member['version']}")
        return line.append(", drained" if member["drained"] else "", "yellow")
    since = member["silent_since"]
    line.append("silent" if since is None else f"silent for {age(since)}", "red")
    return line.append("" if member["problem"] is None else f": {member['problem']}")


def _matrix(document: FleetDocument, names: list[str]) -> Table:
    up = {member["name"] for member in document["members"] if member["up"]}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("TUNNEL", *names):
        table.add_column(column, no_wrap=True)
    for tunnel in document["tunnels"]:
        table.add_row(tunnel["name"], *(_cell(tunnel, name, name in up) for name in names))
    return table


def _cell(tunnel: FleetTunnelEntry, member: str, up: bool) -> Text:
    entry = tunnel["members"].get(member)
    if entry is None:
        return Text("-" if up else "silent", "dim" if up else "red")
    cell = Text(entry["standing"], _COLOURS.get(entry["standing"], "dim"))
    return cell.append(", lock" if entry["locked"] else "")


def _grouped(tunnel: FleetTunnelEntry) -> Iterator[str]:
    members = tunnel["members"]
    for standing in dict.fromkeys(entry["standing"] for entry in members.values()):
        yield f"{standing}: {', '.join(name for name in members if members[name]['standing'] == standing)}"


def _order(order: FleetOrderEntry) -> Text:
    line = Text(f"{order['kind']} {order['subject']}", "bold")
    line.append(f"  {by_whom(order)}", "")
    return line.append(f"; {followed(order)}")


def by_whom(order: FleetOrderEntry) -> str:
    """By whom, when and why."""
    given = datetime.fromtimestamp(order["given"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    why = f" ({order['why']})" if order["why"] else ""
    return f"by {order['by'] or 'somebody'} at {given}{why}"


def followed(order: FleetOrderEntry) -> str:
    """Who follows it and who does not, in words."""
    said, missing = order["acknowledged"], order["missing"]
    under_way = [each["member"] for each in said if not each["done"]]
    text = f"followed by {len(said)} of {len(said) + len(missing)}"
    text += f", in progress on {', '.join(under_way)}" if under_way else ""
    return text + (f", not by {', '.join(missing)}" if missing else "")
