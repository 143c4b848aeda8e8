"""`facilitator-hub sidecar`: runs a sidecar, and tells the one that runs here what to do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from common.quantities import duration_text, parse_duration
from hub.cli.configuration import FAILED, config_option, settings_of, stop
from hub.cli.logging import configure_log
from hub.config.sidecar import SidecarSettings


@click.group(invoke_without_command=True)
@config_option
@click.pass_context
def sidecar(context: click.Context, config: Path) -> None:
    """Decide the logins of this host's OpenVPN server.

    Runs in the foreground until SIGTERM.

    Sessions do not need it: it may end, crash and be replaced while they go on.
    """
    context.obj = settings_of(config, "sidecar", SidecarSettings)
    if context.invoked_subcommand is None:
        configure_log()
        from hub.sidecar.daemon import run_sidecar

        sys.exit(run_sidecar(context.obj))


def _duration(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@sidecar.command()
@click.option("--timeout", callback=_duration, help="Overrides sidecar.drain.timeout, such as 30m.")
@click.option("--wait", is_flag=True, help="Without a timeout: until the last client has left.")
@click.pass_obj
def drain(settings: SidecarSettings, timeout: float | None, wait: bool) -> None:
    """Accept no new logins, and stop OpenVPN after the last client.

    Or when the drain timeout expires."""
    limit = settings.drain.timeout if timeout is None else timeout
    endless = wait or (timeout is None and settings.drain.then == "wait")
    answer = _ask(settings, {"command": "drain", "timeout": None if endless else limit})
    until = "" if endless else f", at most for {duration_text(limit)}"
    click.echo(f"draining: {answer['clients']} clients are still here{until}")


@sidecar.command()
@click.argument("person")
@click.pass_obj
def end(settings: SidecarSettings, person: str) -> None:
    """End a person's sessions on this server.

    Works also while the session service is unreachable.

    It does not keep the person out: `facilitator-hub block` does.
    """
    click.echo(f"{_ask(settings, {'command': 'end', 'person': person})['ended']} sessions of {person} end")


@sidecar.command()
@click.pass_obj
def status(settings: SidecarSettings) -> None:
    """Show what this host's sidecar sees, as JSON.

    Exit code 1: it is not running."""
    click.echo(json.dumps(_ask(settings, {"command": "status"}), indent=2))


def _ask(settings: SidecarSettings, request: dict[str, Any]) -> dict[str, Any]:
    from hub.sidecar.control import ControlFailed, ask_sidecar
    from hub.sidecar.directory import CONTROL

    try:
        return ask_sidecar(settings.management.parent / CONTROL, request)
    except ControlFailed as error:
        stop(str(error), FAILED)
