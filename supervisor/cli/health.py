"""`facilitator health`: one line and an exit code, for load balancers and container checks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from supervisor import disk
from supervisor.cli.options import fail, runtime_dir, socket_option, tunnel_argument
from supervisor.cli.output import say, say_json
from supervisor.control.client import ControlClient, Refused, Unreachable
from supervisor.core.exits import Exit

if TYPE_CHECKING:
    from supervisor.core.views.documents import StatusDocument, TunnelStatus

_TIMEOUT_SECONDS = 3.0  # shorter than what Docker and Kubernetes usually give a check


@click.command()
@tunnel_argument(required=False)
@click.option("--json", "as_json", is_flag=True, help="JSON output.")
@socket_option
def health(tunnel: str | None, as_json: bool, config: Path, socket_path: Path | None) -> None:
    """Health check of the daemon or a tunnel: one line, exit code.

    Exit code 1: not healthy; 4: no answer within 3 s. The daemon is healthy also while tunnels are down or it
    drains: a restart would not help. A tunnel is healthy while it accepts new flows.

    \b
    Example: facilitator health acme-dc
    """
    client = ControlClient(socket_path or runtime_dir(config) / disk.CONTROL_SOCKET, _TIMEOUT_SECONDS)
    try:
        list(client.lines("/healthz", _TIMEOUT_SECONDS))
        document: StatusDocument = client.get("/api/v1/status")
    except Unreachable as error:
        fail(Exit.NO_DAEMON, str(error))
    except Refused as error:
        fail(Exit.NO_RIGHT if error.forbidden else Exit.FAILED, str(error))
    healthy, text = _of_daemon(document) if tunnel is None else _of_tunnel(document, tunnel)
    if as_json:
        say_json({"healthy": healthy, "text": text})
    else:
        say(text)
    sys.exit(Exit.OK if healthy else Exit.FAILED)


def _of_daemon(document: StatusDocument) -> tuple[bool, str]:
    tunnels = document["tunnels"]
    up = sum(1 for each in tunnels if works(each))
    drains = ", draining" if document["draining"] else ""
    return True, f"{document['facilitator']}: works, {up} of {len(tunnels)} tunnels up{drains}"


def _of_tunnel(document: StatusDocument, name: str) -> tuple[bool, str]:
    entry = next((each for each in document["tunnels"] if each["name"] == name), None)
    if entry is None:
        return False, f"{name}: there is no such tunnel"
    state = f"{name}: {entry['phase']}, {entry['health']}"
    if document["draining"] or entry["drain"] is not None:
        return False, f"{state}, draining"
    if works(entry):
        return True, state
    return False, f"{state}: {entry['last_error'] or entry['reason']}"


def works(entry: TunnelStatus) -> bool:
    """As for `status` and the metric facilitator_tunnel_up."""
    return entry["phase"] == "up" and entry["health"] != "unhealthy"
