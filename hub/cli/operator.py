"""The operators' commands: who is connected, who was, and the end of sessions."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from common.quantities import parse_duration
from hub.cli.client import OperatorClient
from hub.cli.configuration import FAILED, config_option, settings_of, stop
from hub.config.model import AdminSettings

_ESCAPES = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_FOLLOW_SECONDS = 25
_AS_JSON = click.option("--json", "as_json", is_flag=True, help="JSON output.")


def _client(config: Path) -> OperatorClient:
    return OperatorClient(settings_of(config, "admin", AdminSettings))


def _moment(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds is not None else "-"


def _say(cells: Iterable[object]) -> str:
    """What a client says of itself may hold anything."""
    return "  ".join(_ESCAPES.sub(" ", str(cell)) for cell in cells).rstrip()


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    widths = [max(len(str(row[column])) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        click.echo(_say(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)))


def _moment_of(text: str) -> float:
    """Unix time of 2027-01-31T12:00:00Z, or of `2h` ago."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).timestamp()
    except ValueError:
        pass
    try:
        return time.time() - parse_duration(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is neither a moment, as 2027-01-31T12:00:00Z, nor `2h` ago"
        ) from None


def _sessions(document: Any) -> None:
    rows = [
        (
            each["person"], each["address"] or "-", each["state"], each["node"], _moment(each["up"] or each["asked"]),
            _moment(each["ended"]), each["reason"] or "-", each["client"]["address"], each["method"], each["session"],
        )
        for each in document["sessions"]
    ]  # fmt: skip
    _table(
        ("PERSON", "ADDRESS", "STATE", "NODE", "SINCE", "ENDED", "REASON", "FROM", "LOGIN", "SESSION"), rows
    )


@click.command()
@click.argument("person_or_address", required=False)
@config_option
@_AS_JSON
def who(person_or_address: str | None, config: Path, as_json: bool) -> None:
    """Show who is connected: everybody, one person, or by address.

    Example: facilitator-hub who 10.8.3.7
    """
    person, address = _told_apart(person_or_address)
    document = _client(config).get("/api/v1/sessions", person=person, address=address)
    click.echo(json.dumps(document, indent=2)) if as_json else _sessions(document)


@click.command()
@click.argument("person_or_address", required=False)
@click.option("--at", help="Who had the address at this moment: 2027-01-31T12:00:00Z, or `2h` ago.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@config_option
@_AS_JSON
def history(person_or_address: str | None, at: str | None, limit: int, config: Path, as_json: bool) -> None:
    """Show past sessions and rejected logins.

    Example: facilitator-hub history 10.8.3.7 --at 2027-01-31T12:00:00Z
    """
    person, address = _told_apart(person_or_address)
    if at is not None and address is None:
        raise click.UsageError("--at needs an address")
    moment = _moment_of(at) if at is not None else None
    document = _client(config).get("/api/v1/history", person=person, address=address, at=moment, limit=limit)
    click.echo(json.dumps(document, indent=2)) if as_json else _sessions(document)


@click.command()
@click.option("--after", type=int, default=0, help="Only those after this revision.")
@click.option("--person", help="Only this person.")
@click.option("-f", "--follow", is_flag=True, help="Keep printing new ones as they arrive.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=1000, show_default=True)
@config_option
@_AS_JSON
def events(after: int, person: str | None, follow: bool, limit: int, config: Path, as_json: bool) -> None:
    """Show what happened to sessions, and who ordered it.

    Example: facilitator-hub events --person alice
    """
    client = _client(config)
    while True:
        wait = _FOLLOW_SECONDS if follow else 0
        document = client.get("/api/v1/events", wait, after=after, person=person, limit=limit, wait=wait)
        for each in document["events"]:
            detail = {name: value for name, value in each["detail"].items() if value is not None}
            cells = (
                _moment(each["at"]),
                each["what"],
                each["person"] or "-",
                each["session"] or "-",
                json.dumps(detail),
            )
            click.echo(json.dumps(each) if as_json else _say(cells))
        after = document["revision"]
        if not follow:
            return


@click.command()
@click.argument("person_or_address")
@click.option("--session", is_flag=True, help="The argument is a session id.")
@click.option("--text", help="Message for the person.")
@config_option
@_AS_JSON
def end(person_or_address: str, session: bool, text: str | None, config: Path, as_json: bool) -> None:
    """End the sessions of a person or an address, or one by its id.

    The person may log in again.

    Example: facilitator-hub end alice
    """
    person, address = (None, None) if session else _told_apart(person_or_address)
    document = _client(config).post(
        "/api/v1/end",
        person=person,
        address=address,
        session=person_or_address if session else None,
        text=text,
    )
    _ordered(document, as_json)
    if not document["sessions"]:
        stop(f"nobody is connected as {person_or_address}", FAILED)


@click.command()
@click.argument("person")
@click.option("--for", "duration", help="For how long, such as 8h or 30d.")
@click.option("--remove", is_flag=True, help="Unblock.")
@click.option("--text", help="Message for the person.")
@config_option
@_AS_JSON
def block(
    person: str, duration: str | None, remove: bool, text: str | None, config: Path, as_json: bool
) -> None:
    """Block a person: no more logins, and all sessions end.

    Example: facilitator-hub block alice
    """
    try:
        until = time.time() + parse_duration(duration) if duration is not None else None
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    document = _client(config).post(
        "/api/v1/block", person=person, blocked=not remove, until=until, text=text
    )
    _ordered(document, as_json)


@click.command()
@config_option
@_AS_JSON
def nodes(config: Path, as_json: bool) -> None:
    """Show the OpenVPN servers.

    Example: facilitator-hub nodes
    """
    document = _client(config).get("/api/v1/nodes")
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    rows = [
        (each["node"], each["sessions"], _moment(each["seen"]), _node_state(each), each["version"])
        for each in document["nodes"]
    ]
    _table(("NODE", "SESSIONS", "SEEN", "STATE", "VERSION"), rows)


def _node_state(node: Any) -> str:
    if node["silent"]:
        return "silent"
    return "draining" if node["draining"] else "up"


def _ordered(document: Any, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo(f"the end of {len(document['sessions'])} sessions is ordered")


def _told_apart(text: str | None) -> tuple[str | None, str | None]:
    """A person, or an address."""
    if text is not None and re.fullmatch(r"\d+\.\d+\.\d+\.\d+", text, re.ASCII):
        return None, text
    return text, None
