"""`facilitator history`: availability, sessions, incidents and transitions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import click

from supervisor.cli.options import ask, socket_option, tunnel_argument
from supervisor.cli.output import say_json

if TYPE_CHECKING:
    from supervisor.core.views.documents import HistoryDocument


@click.command()
@tunnel_argument(required=False)
@click.option("--json", "as_json", is_flag=True, help="JSON output.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(0, 10_000),
    default=20,
    show_default=True,
    help="How many rows per table.",
)
@socket_option
def history(tunnel: str | None, as_json: bool, lines: int, config: Path, socket_path: Path | None) -> None:
    """Show availability, sessions and incidents.

    With TUNNEL its state changes, too. Availability is the share of the time in which a tunnel was meant to
    be up that it was proven to work. Time in which an operator had stopped it is left out; time in which no
    daemon ran counts as down.

    \b
    Example: facilitator history acme-dc
    """
    query = urlencode({"limit": lines} | ({"tunnel": tunnel} if tunnel is not None else {}))
    document: HistoryDocument = ask(
        lambda client: client.get(f"/api/v1/history?{query}"), config, socket_path
    )
    if as_json:
        say_json(document)
        return
    from supervisor.cli.history_table import print_history

    print_history(document, tunnel)
