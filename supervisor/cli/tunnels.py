"""Commands about tunnels: each is a request to the running daemon."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from supervisor.cli.options import ask, fail, socket_option, tunnel_argument
from supervisor.cli.output import draws, say, say_json, say_json_line
from supervisor.cli.selection import SORT_KEYS, selected
from supervisor.core.exits import Exit
from supervisor.core.views.drain_text import flows_left

if TYPE_CHECKING:
    from rich.text import Text

    from supervisor.core.views.documents import ReloadDocument, StatusDocument

_REFRESH_SECONDS = 1.0  # of `status --watch`


@click.command()
@tunnel_argument(required=False)
@click.option("--json", "as_json", is_flag=True, help="JSON output.")
@click.option("--watch", is_flag=True, help="Refresh until interrupted.")
@click.option("-o", "--output", type=click.Choice(["wide"]), help="More columns: bytes, interface, MTU.")
@click.option("--state", "states", multiple=True, metavar="STATE", help="Only tunnels in this state.")
@click.option("--sort", type=click.Choice(sorted(SORT_KEYS)), help="Order of the rows.")
@socket_option
def status(
    tunnel: str | None,
    as_json: bool,
    watch: bool,
    output: str | None,
    states: tuple[str, ...],
    sort: str | None,
    config: Path,
    socket_path: Path | None,
) -> None:
    """Show the tunnels: state, networks, RTT and last error.

    Of one TUNNEL also its session, traffic, last events and last log lines. A STATE is a phase such as `up`
    or `backoff`, or `healthy`, `unhealthy` or `degraded`.

    Exit code 3: a tunnel is not up.

    With --watch and --json: one document per line, one line per second, also into a pipe.

    \b
    Example: facilitator status --watch
    """

    def document() -> StatusDocument:
        whole: StatusDocument = ask(
            lambda client: client.get("/api/v1/status"), config, socket_path, otherwise=_closed
        )
        return selected(_only(whole, tunnel), states, sort)

    if watch:
        if not as_json and not draws():
            fail(Exit.USAGE, "status --watch needs a terminal; add --json for one document per line")
        _watch(_json_lines if as_json else _screen, document)
        return
    now = document()
    if as_json:
        say_json(now)
    else:
        from supervisor.cli.status_table import print_status
        from supervisor.cli.tunnel_detail import detail_lines, detail_of, traffic_of

        traffic = None if output is None else ask(traffic_of, config, socket_path)
        details: Iterable[Text] = ()
        if tunnel is not None and now["tunnels"]:  # --state may leave none
            known = ask(lambda client: detail_of(client, tunnel), config, socket_path)
            details = detail_lines(now["tunnels"][0], known)
        print_status(now, traffic, details)
    if not all(entry["phase"] == "up" and entry["health"] != "unhealthy" for entry in now["tunnels"]):
        sys.exit(Exit.NOT_UP)


def _closed() -> str:
    """Whether the host is closed although no daemon answers, as far as this user may see that."""
    from supervisor.core.humanize import iso
    from supervisor.early_close import closed_since

    since = closed_since()
    return "" if since is None else f"; the host has been closed since {iso(since)}"


def _only(document: StatusDocument, tunnel: str | None) -> StatusDocument:
    if tunnel is None:
        return document
    chosen = [entry for entry in document["tunnels"] if entry["name"] == tunnel]
    if not chosen:
        fail(
            Exit.FAILED,
            f"no such tunnel: {tunnel}; there are: {', '.join(e['name'] for e in document['tunnels'])}",
        )
    return {**document, "tunnels": chosen}


def _watch(
    show: Callable[[Callable[[], StatusDocument]], None], document: Callable[[], StatusDocument]
) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        show(document)


def _json_lines(document: Callable[[], StatusDocument]) -> None:
    while True:
        say_json_line(document())
        time.sleep(_REFRESH_SECONDS)


def _screen(document: Callable[[], StatusDocument]) -> None:
    from rich.live import Live

    from supervisor.cli.console import screen
    from supervisor.cli.status_table import status_view

    console = screen()
    first = status_view(document(), console.width)
    with Live(first, console=console, auto_refresh=False, screen=True) as live:
        while True:
            time.sleep(_REFRESH_SECONDS)
            live.update(status_view(document(), console.width), refresh=True)


@click.command()
@click.option(
    "--now", is_flag=True, help="Do not wait for active flows; clients get some seconds to log off."
)
@click.option("--json", "as_json", is_flag=True, help="JSON output.")
@socket_option
def drain(now: bool, as_json: bool, config: Path, socket_path: Path | None) -> None:
    """Stop the daemon once active flows have finished.

    No new flows enter a tunnel; active ones continue. The same as SIGTERM; --now is the same as a second
    SIGTERM. `status` shows the remaining flows.

    \b
    Example: facilitator drain
    """
    document: StatusDocument = ask(
        lambda client: client.post(f"/api/v1/drain{'?now=1' if now else ''}", 30.0), config, socket_path
    )
    if as_json:
        say_json(document)
        return
    left = [
        f"{entry['name']} {flows_left(entry['drain'])}"
        for entry in document["tunnels"]
        if entry["drain"] is not None
    ]
    if now or not left:
        say("stopping now")
        return
    say(f"draining: {', '.join(left)}; to end it now: facilitator drain --now")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="JSON output.")
@socket_option
def reload(as_json: bool, config: Path, socket_path: Path | None) -> None:
    """Apply the changed configuration file.

    Prints what was changed. An invalid configuration changes nothing. Tunnels whose files are invalid are
    named: one that is up keeps its earlier settings until its files are valid; everything else is applied.

    Exit code 1: a tunnel cannot start with its files; 78: the configuration is invalid.

    \b
    Example: facilitator reload
    """
    answer: ReloadDocument = ask(lambda client: client.post("/api/v1/reload", 30.0), config, socket_path)
    if as_json:
        say_json(answer)
    for line in answer.get("errors", ()):
        say(line, err=True)
    if answer.get("errors"):
        fail(Exit.CONFIG, "configuration invalid; keeping the running configuration")
    for line in () if as_json else answer["done"] or ["nothing changed"]:
        say(line)
    problems = answer.get("problems", ())
    for line in problems:
        say(line, err=True)
    if problems:
        fail(Exit.FAILED, "these tunnels cannot start with their files; everything else was applied")
