"""Commands about tunnels: each is a request to the running daemon."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from supervisor.cli.options import ask, fail, socket_option, tunnel_name
from supervisor.cli.output import draws, prompt, say, say_json, say_json_line
from supervisor.control.client import ControlClient
from supervisor.core.exits import Exit
from supervisor.core.views.drain_text import flows_left

if TYPE_CHECKING:
    from supervisor.core.views.documents import QuestionDocument, ReloadDocument, StatusDocument, TunnelStatus

_REFRESH_SECONDS = 1.0  # of `status --watch`
_WAIT_SECONDS = 90  # how long start, stop and restart wait for the result


@click.command()
@click.argument("tunnel", callback=tunnel_name, required=False)
@click.option("--json", "as_json", is_flag=True, help="JSON output.")
@click.option("--watch", is_flag=True, help="Refresh until interrupted.")
@socket_option
def status(tunnel: str | None, as_json: bool, watch: bool, config: Path, socket_path: Path | None) -> None:
    """Show the tunnels: state, networks, RTT and last error.

    Exit code 3: a tunnel is not up.

    With --watch and --json: one document per line, one line per second, also into a pipe.

    \b
    Example: facilitator status --watch
    """

    def document() -> StatusDocument:
        whole: StatusDocument = ask(
            lambda client: client.get("/api/v1/status"), config, socket_path, otherwise=_closed
        )
        return _only(whole, tunnel)

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

        print_status(now)
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


def _order(
    verb: str, tunnel: str, config: Path, socket_path: Path | None, done: tuple[str, ...], how: str = ""
) -> None:
    entry: TunnelStatus = ask(
        lambda client: client.post(
            f"/api/v1/tunnels/{tunnel}/{verb}?wait={_WAIT_SECONDS}{how}", _WAIT_SECONDS
        ),
        config,
        socket_path,
    )
    if entry["asks"] is not None and verb != "stop":
        fail(
            Exit.FAILED, f"{tunnel} asks: {entry['asks']['text']}; give it with: facilitator answer {tunnel}"
        )
    _report(entry, done)


def _report(entry: TunnelStatus, done: tuple[str, ...]) -> None:
    """Print the tunnel's state in one line; exit code 1 unless it is in one of these phases."""
    line = f"{entry['name']}: {entry['phase']} ({entry['reason']})"
    if entry["phase"] in done:
        say(line)
        return
    lock = entry.get("lock")
    if lock is not None and lock["holder"] is not None and entry["reason"] == "lock":
        say(f"{line}; it {lock['text']}")
        return
    fail(
        Exit.FAILED,
        f"{line}; {entry['last_error'] or 'no error is known'}; see: facilitator logs {entry['name']}",
    )


@click.command()
@click.argument("tunnel", callback=tunnel_name)
@socket_option
def start(tunnel: str, config: Path, socket_path: Path | None) -> None:
    """Bring a tunnel up and wait until it is connected.

    \b
    Example: facilitator start acme-dc
    """
    _order("start", tunnel, config, socket_path, ("up",))


@click.command()
@click.argument("tunnel", callback=tunnel_name)
@click.option(
    "--drain", is_flag=True, help="Accept no new flows, and stop once the active flows have finished."
)
@socket_option
def stop(tunnel: str, drain: bool, config: Path, socket_path: Path | None) -> None:
    """Take a tunnel down until `start`.

    It stays stopped even across daemon restarts. With --drain new flows go to another tunnel that can carry
    them, or are rejected; `status` shows how many active flows remain. `start` cancels the drain, `stop`
    without --drain stops the tunnel immediately.

    \b
    Example: facilitator stop acme-dc --drain
    """
    if not drain:
        _order("stop", tunnel, config, socket_path, ("stopped",))
        return
    entry: TunnelStatus = ask(
        lambda client: client.post(
            f"/api/v1/tunnels/{tunnel}/stop?drain=1&wait={_WAIT_SECONDS}", _WAIT_SECONDS
        ),
        config,
        socket_path,
    )
    if entry["drain"] is None:
        _report(entry, ("stopped",))
        return
    say(
        f"{tunnel}: draining, {flows_left(entry['drain'])}; it ends with the last one, at "
        f"{entry['drain']['until']} at the latest"
    )


@click.command()
@click.option(
    "--now", is_flag=True, help="Do not wait for active flows; clients get some seconds to log off."
)
@socket_option
def drain(now: bool, config: Path, socket_path: Path | None) -> None:
    """Stop the daemon once active flows have finished.

    No new flows enter a tunnel; active ones continue. The same as SIGTERM; --now is the same as a second
    SIGTERM. `status` shows the remaining flows.

    \b
    Example: facilitator drain
    """
    document: StatusDocument = ask(
        lambda client: client.post(f"/api/v1/drain{'?now=1' if now else ''}", 30.0), config, socket_path
    )
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
@click.argument("tunnel", callback=tunnel_name)
@click.option("--force", is_flag=True, help="Even if its files are invalid and no new session can start.")
@socket_option
def restart(tunnel: str, force: bool, config: Path, socket_path: Path | None) -> None:
    """Reconnect a tunnel and wait until it is up.

    Its files are checked first: a working session is not ended if no new one could start with them.

    \b
    Example: facilitator restart acme-dc
    """
    _order("restart", tunnel, config, socket_path, ("up",), "&force=1" if force else "")


@click.command()
@click.argument("tunnel", callback=tunnel_name)
@socket_option
def answer(tunnel: str, config: Path, socket_path: Path | None) -> None:
    """Answer the remote gateway's prompt, such as a one-time password.

    The answer is read from the terminal without echo, or from stdin.

    \b
    Example: facilitator answer acme-dc
    """
    pending: QuestionDocument = ask(
        lambda client: client.get(f"/api/v1/tunnels/{tunnel}/question"), config, socket_path
    )
    question = pending["text"]
    if question is None:
        fail(Exit.FAILED, f"{tunnel} asks nothing; see: facilitator status {tunnel}")
    text = prompt(f"{tunnel} asks: {question}") if sys.stdin.isatty() else sys.stdin.readline().strip()
    entry: TunnelStatus = ask(
        lambda client: client.post(
            f"/api/v1/tunnels/{tunnel}/answer?wait={_WAIT_SECONDS}", _WAIT_SECONDS, text
        ),
        config,
        socket_path,
    )
    if entry["asks"] is not None:
        fail(Exit.FAILED, f"{tunnel} asks again: {entry['asks']['text']}")
    _report(entry, ("up",))


@click.command()
@click.argument("tunnel", callback=tunnel_name)
@click.option("-f", "--follow", is_flag=True, help="Keep printing new lines.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(min=0),
    default=200,
    show_default=True,
    help="How many of the last lines; 200 are kept.",
)
@socket_option
def logs(tunnel: str, follow: bool, lines: int, config: Path, socket_path: Path | None) -> None:
    """Show a client's output, secrets masked.

    \b
    Example: facilitator logs acme-dc -f
    """

    def show(client: ControlClient) -> None:
        for line in client.lines(
            f"/api/v1/tunnels/{tunnel}/logs?lines={lines}" + ("&follow=1" if follow else "")
        ):
            say(line)

    try:
        ask(show, config, socket_path)
    except KeyboardInterrupt:
        return


@click.command()
@socket_option
def reload(config: Path, socket_path: Path | None) -> None:
    """Apply the changed configuration file.

    Prints what was changed. An invalid configuration changes nothing. Tunnels whose files are invalid are
    named: one that is up keeps its earlier settings until its files are valid; everything else is applied.

    Exit code 1: a tunnel cannot start with its files; 78: the configuration is invalid.

    \b
    Example: facilitator reload
    """
    answer: ReloadDocument = ask(lambda client: client.post("/api/v1/reload", 30.0), config, socket_path)
    for line in answer.get("errors", ()):
        say(line, err=True)
    if answer.get("errors"):
        fail(Exit.CONFIG, "configuration invalid; keeping the running configuration")
    for line in answer["done"] or ["nothing changed"]:
        say(line)
    problems = answer.get("problems", ())
    for line in problems:
        say(line, err=True)
    if problems:
        fail(Exit.FAILED, "these tunnels cannot start with their files; everything else was applied")
