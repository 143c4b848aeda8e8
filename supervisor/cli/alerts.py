"""`facilitator alerts`: open incidents, unsent messages, and a test of the path to each receiver."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from supervisor.cli.options import ask, fail, socket_option, tunnel_name
from supervisor.cli.output import say, say_json
from supervisor.core.exits import Exit

if TYPE_CHECKING:
    from supervisor.core.views.documents import (
        AlertsDocument,
        AlertTestDocument,
        ReceiverEntry,
        ReceiverIncidentEntry,
    )

_TEST_SECONDS = 90  # that all receivers may take together


@click.command()
@click.option("--test", is_flag=True, help="Send a test alert to every receiver and resolve it.")
@click.option("--tunnel", callback=tunnel_name, help="With --test: through this tunnel's routing key.")
@click.option("--json", "as_json", is_flag=True, help="JSON output.")
@socket_option
def alerts(test: bool, tunnel: str | None, as_json: bool, config: Path, socket_path: Path | None) -> None:
    """Show open incidents and undelivered messages; test the pager.

    With --test an incident of severity "info" is opened and resolved at every receiver; exit code 1: one of
    them did not accept it.

    \b
    Example: facilitator alerts --test --tunnel acme-dc
    """
    if test:
        _test(tunnel, as_json, config, socket_path)
        return
    if tunnel is not None:
        fail(Exit.USAGE, "--tunnel goes with --test")
    document: AlertsDocument = ask(lambda client: client.get("/api/v1/alerts"), config, socket_path)
    if as_json:
        say_json(document)
    else:
        say("\n".join(_text(document)))


def _test(tunnel: str | None, as_json: bool, config: Path, socket_path: Path | None) -> None:
    """Exit code 1: a receiver did not take it, or there is none."""
    query = "" if tunnel is None else f"?tunnel={tunnel}"
    document: AlertTestDocument = ask(
        lambda client: client.post(f"/api/v1/alerts/test{query}", _TEST_SECONDS), config, socket_path
    )
    if as_json:
        say_json(document)
    else:
        say("\n".join(_test_text(document)))
    if not document["receivers"]:
        fail(Exit.FAILED, "nobody would be paged: neither alerts.pagerduty nor alerts.webhook is configured")
    if not all(receiver["taken"] for receiver in document["receivers"]):
        sys.exit(Exit.FAILED)


def _test_text(document: AlertTestDocument) -> Iterator[str]:
    for receiver in document["receivers"]:
        yield f"{receiver['name']}: trigger: {receiver['trigger']}"
        if receiver["resolve"] is not None:
            yield f"{receiver['name']}: resolve: {receiver['resolve']}"


def _text(document: AlertsDocument) -> Iterator[str]:
    if not document["receivers"]:
        yield "nobody would be paged: neither alerts.pagerduty nor alerts.webhook is configured"
    for receiver in document["receivers"]:
        yield (
            f"{receiver['name']}  {len(receiver['incidents'])} open, {receiver['pending']} waiting to be sent"
        )
        yield from _problems(receiver)
        for incident in receiver["incidents"]:
            yield f"  {incident['since']}  {incident['name']}  {_state(incident)}"
        for letter in receiver["refused"]:
            yield (
                f"  refused for good at {letter['at']}: {letter['action']} of {letter['dedup_key']}: "
                f"{letter['error']}"
            )


def _problems(receiver: ReceiverEntry) -> Iterator[str]:
    if not receiver["configured"]:
        yield "  not configured any more; what it opened is resolved as far as its key can be read"
    if not receiver["store_usable"]:
        yield "  the store on disk cannot be used: a crash of the daemon would lose what waits"
    if receiver["oldest"] is not None:
        yield f"  the oldest has waited since {receiver['oldest']}"
    if receiver["last_error"] is not None:
        yield f"  last error: {receiver['last_error']}"


def _state(incident: ReceiverIncidentEntry) -> str:
    waits = incident["waits"]
    if waits is None:
        return incident["there"]
    tries = f", {waits['attempts']} attempts so far: {waits['error']}" if waits["attempts"] else ""
    return f"{waits['action']} waits to be sent{tries}"
