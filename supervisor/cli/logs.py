"""`facilitator logs`: the output of clients."""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from supervisor.cli.at_once import at_once
from supervisor.cli.options import ask, fail, socket_option, tunnel_arguments
from supervisor.cli.output import say, say_json_line
from supervisor.control.client import ControlClient
from supervisor.core.exits import Exit

if TYPE_CHECKING:
    from supervisor.core.views.documents import StatusDocument


@click.command()
@tunnel_arguments
@click.option("--all", "every", is_flag=True, help="All tunnels.")
@click.option("-f", "--follow", is_flag=True, help="Keep printing new lines.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(min=0),
    default=200,
    show_default=True,
    help="How many of the last lines; 200 are kept.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@socket_option
def logs(
    tunnels: tuple[str, ...],
    every: bool,
    follow: bool,
    lines: int,
    as_json: bool,
    config: Path,
    socket_path: Path | None,
) -> None:
    """Show the clients' output, secrets masked.

    Of several tunnels, each line begins with the tunnel's name. The daemon's own log is in the journal:
    `journalctl -u facilitator`.

    \b
    Example: facilitator logs acme-dc -f
    """
    names = _every(config, socket_path) if every else list(dict.fromkeys(tunnels))
    if not names and not every:
        fail(Exit.USAGE, "name a tunnel, several, or give --all")
    width = max(map(len, names), default=0) if len(names) > 1 else 0
    printing = threading.Lock()  # one line at a time

    def show(client: ControlClient, name: str) -> None:
        path = f"/api/v1/tunnels/{name}/logs?lines={lines}{'&follow=1' if follow else ''}"
        for line in client.lines(path):
            with printing:
                if as_json:
                    say_json_line({"tunnel": name, "line": line})
                else:
                    say(f"{name:{width}}  {line}" if width else line)

    try:
        if not follow or len(names) == 1:
            for name in names:
                ask(functools.partial(show, name=name), config, socket_path)
        else:
            at_once(lambda name: ask(functools.partial(show, name=name), config, socket_path), names)
    except KeyboardInterrupt:
        return


def _every(config: Path, socket_path: Path | None) -> list[str]:
    document: StatusDocument = ask(lambda client: client.get("/api/v1/status"), config, socket_path)
    return [entry["name"] for entry in document["tunnels"]]
