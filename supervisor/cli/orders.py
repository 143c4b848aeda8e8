"""`facilitator start`, `stop`, `restart` and `answer`: each waits for the outcome."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from supervisor.cli.at_once import at_once
from supervisor.cli.options import AnyFunction, ask, fail, socket_option, tunnel_argument, tunnel_arguments
from supervisor.cli.output import prompt, say, say_json
from supervisor.core.exits import Exit
from supervisor.core.views.drain_text import flows_left

if TYPE_CHECKING:
    from supervisor.core.views.documents import QuestionDocument, StatusDocument, TunnelStatus

_WAIT_SECONDS = 90  # how long start, stop and restart wait for the result
_MAX_AT_ONCE = 64  # orders that wait beside each other


@dataclass(frozen=True, slots=True)
class TunnelOrder:
    """What is wanted of which tunnels, and how the answer is printed."""

    tunnels: tuple[str, ...]
    every: bool  # all tunnels
    kind: str | None  # all tunnels of a kind
    as_json: bool
    config: Path
    socket_path: Path | None

    def give(self, verb: str, done: Sequence[str], how: str = "") -> None:
        """Send it for each tunnel at the same time, wait, and print the outcome in the given order. Exit
        code 1 unless every tunnel is in one of the phases `done`, or drains.
        """
        path = f"{verb}?wait={_WAIT_SECONDS}{how}"

        def order(name: str) -> TunnelStatus:
            entry: TunnelStatus = ask(
                lambda client: client.post(f"/api/v1/tunnels/{name}/{path}", _WAIT_SECONDS),
                self.config,
                self.socket_path,
            )
            return entry

        entries = at_once(order, self._names(), _MAX_AT_ONCE)
        _report(entries, done, verb, as_json=self.as_json)

    def _names(self) -> list[str]:
        if not self.every and self.kind is None:
            return list(dict.fromkeys(self.tunnels))
        document: StatusDocument = ask(
            lambda client: client.get("/api/v1/status"), self.config, self.socket_path
        )
        return [
            entry["name"]
            for entry in document["tunnels"]
            if entry["name"] in self.tunnels or self.every or entry["kind"] == self.kind
        ]


def _order_options(command: Callable[..., Any]) -> AnyFunction | Callable[..., Any]:
    """TUNNEL..., --all, --kind and --json, as an `TunnelOrder`."""

    def checked(
        tunnels: tuple[str, ...],
        every: bool,
        kind: str | None,
        as_json: bool,
        config: Path,
        socket_path: Path | None,
        **others: bool,
    ) -> None:
        if not tunnels and not every and kind is None:
            raise click.UsageError("name a tunnel, several, or give --all or --kind KIND")
        command(TunnelOrder(tunnels, every, kind, as_json, config, socket_path), **others)

    checked.__doc__, checked.__name__ = command.__doc__, command.__name__
    checked.__dict__.update(command.__dict__)  # click's parameters
    for option in (
        socket_option,
        click.option("--json", "as_json", is_flag=True, help="JSON output."),
        click.option("--kind", metavar="KIND", help="All tunnels of this kind."),
        click.option("--all", "every", is_flag=True, help="All tunnels."),
        tunnel_arguments,
    ):
        checked = option(checked)
    return checked


def _report(entries: Sequence[TunnelStatus], done: Sequence[str], verb: str, *, as_json: bool) -> None:
    """Print each tunnel's state in one line; exit code 1 unless all are in these phases or drain."""
    if as_json:
        say_json({"tunnels": entries})
    problems = []
    for entry in entries:
        line = f"{entry['name']}: {entry['phase']} ({entry['reason']})"
        asks, lock, drain = entry["asks"], entry.get("lock"), entry["drain"]
        if asks is not None and verb != "stop":
            again = "asks again" if verb == "answer" else "asks"
            problems.append(
                f"{entry['name']} {again}: {asks['text']}; give it with: facilitator answer {entry['name']}"
            )
            continue
        if verb == "stop" and drain is not None:
            line = (
                f"{entry['name']}: draining, {flows_left(drain)}; it ends with the last one, at "
                f"{drain['until']} at the latest"
            )
        elif entry["phase"] not in done:
            if lock is None or lock["holder"] is None or entry["reason"] != "lock":
                problems.append(_problem(line, entry))
                continue
            line = f"{line}; it {lock['text']}"
        if not as_json:
            say(line)
    if problems:
        _fail(problems)


def _problem(line: str, entry: TunnelStatus) -> str:
    return f"{line}; {entry['last_error'] or 'no error is known'}; see: facilitator logs {entry['name']}"


def _fail(problems: Sequence[str]) -> NoReturn:
    for problem in problems[:-1]:
        say(f"facilitator: {problem}", err=True)
    fail(Exit.FAILED, problems[-1])


@click.command()
@_order_options
def start(order: TunnelOrder) -> None:
    """Bring tunnels up and wait until they are connected.

    \b
    Example: facilitator start acme-dc
    """
    order.give("start", ("up",))


@click.command()
@click.option(
    "--drain", is_flag=True, help="Accept no new flows, and stop once the active flows have finished."
)
@_order_options
def stop(order: TunnelOrder, drain: bool) -> None:
    """Take tunnels down until `start`.

    They stay stopped even across daemon restarts. With --drain new flows go to another tunnel that can carry
    them, or are rejected; `status` shows how many active flows remain. `start` cancels the drain, `stop`
    without --drain stops the tunnel immediately.

    \b
    Example: facilitator stop acme-dc --drain
    """
    order.give("stop", ("stopped",), "&drain=1" if drain else "")


@click.command()
@click.option("--force", is_flag=True, help="Even if its files are invalid and no new session can start.")
@_order_options
def restart(order: TunnelOrder, force: bool) -> None:
    """Reconnect tunnels and wait until they are up.

    Their files are checked first: a working session is not ended if no new one could start with them.

    \b
    Example: facilitator restart acme-dc globex-office
    """
    order.give("restart", ("up",), "&force=1" if force else "")


@click.command()
@tunnel_argument()
@click.option("--json", "as_json", is_flag=True, help="JSON output.")
@socket_option
def answer(tunnel: str, as_json: bool, config: Path, socket_path: Path | None) -> None:
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
    _report([entry], ("up",), "answer", as_json=as_json)
