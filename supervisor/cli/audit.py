"""`facilitator audit`: the state of the audit log, and who used which tunnel the most since it began."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import click

from supervisor.cli.options import ask, socket_option, tunnel_argument
from supervisor.cli.output import say, say_json
from supervisor.core.humanize import byte_size

if TYPE_CHECKING:
    from supervisor.core.views.documents import AuditDocument


@click.command()
@tunnel_argument(required=False)
@click.option("--from", "source", metavar="ADDRESS|PERSON", help="Only this user's address or name.")
@click.option("--json", "as_json", is_flag=True, help="JSON output.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(0, 10_000),
    default=20,
    show_default=True,
    help="How many rows, largest first.",
)
@socket_option
def audit(
    tunnel: str | None, source: str | None, as_json: bool, lines: int, config: Path, socket_path: Path | None
) -> None:
    """Show who used which tunnel the most.

    Sorted by the bytes of finished connections since this audit began. The file named in the output has every
    single connection, one JSON object per line.

    \b
    Example: facilitator audit acme-dc --from 10.8.1.5
    """
    wanted = {"limit": str(lines), "tunnel": tunnel, "source": source}
    query = urlencode({name: value for name, value in wanted.items() if value is not None})
    document: AuditDocument = ask(lambda client: client.get(f"/api/v1/audit?{query}"), config, socket_path)
    if as_json:
        say_json(document)
        return
    from supervisor.cli.console import screen
    from supervisor.cli.table import ResponsiveTable

    say(_headline(document))
    console = screen()
    console.print(
        ResponsiveTable(
            ("TUNNEL", "SOURCE", "FLOWS", "OPEN", "SENT", "RECEIVED"),
            (
                (
                    row["tunnel"],
                    row["source"] if row.get("person") is None else f"{row['source']} {row['person']}",
                    str(row["flows"]),
                    str(row["open"]),
                    byte_size(row["sent_bytes"]),
                    byte_size(row["received_bytes"]),
                )
                for row in document["totals"]
            ),
        ).fitted(console.width)
    )


def _headline(document: AuditDocument) -> str:
    events = ", ".join(f"{count} {event}" for event, count in sorted(document["events"].items()))
    lost = f"; {document['lost']} lost, see the gaps" if document["lost"] else ""
    problem = f"\nproblem: {document['problem']}" if document["problem"] else ""
    return f"{document['file']}  {events or 'nothing yet'}{lost}{problem}\n"
