"""`facilitator upgrade`: re-execute the running daemon with the newly installed code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from supervisor import disk
from supervisor.cli.options import fail, refused, runtime_dir, socket_option
from supervisor.cli.output import say, say_json
from supervisor.control.client import ControlClient, Refused, Unreachable
from supervisor.core.exits import Exit

if TYPE_CHECKING:
    from supervisor.core.views.documents import StatusDocument, UpgradeDocument

_CHECK_SECONDS = 75.0  # for the daemon to check the new code
_RESTART_SECONDS = 60.0  # for the new code to answer


@click.command()
@click.option("--json", "as_json", is_flag=True, help="JSON output: the status afterwards.")
@socket_option
def upgrade(as_json: bool, config: Path, socket_path: Path | None) -> None:
    """Re-execute the daemon with the newly installed code.

    No tunnel is dropped. Waits until the new code answers. If it cannot take the state of the old code, the
    old code keeps running, and the reason is printed.

    \b
    Example: facilitator upgrade
    """
    path = socket_path or runtime_dir(config) / disk.CONTROL_SOCKET
    try:
        before: StatusDocument = ControlClient(path).get("/api/v1/status")
        errors = _refusals(ControlClient(path))
        if errors:
            for line in errors:
                say(line, err=True)
            fail(Exit.FAILED, f"not upgraded; version {before['version']} keeps running")
        after: StatusDocument = ControlClient(path, _RESTART_SECONDS).get("/api/v1/status")
    except Unreachable as error:
        fail(Exit.NO_DAEMON, str(error))
    except Refused as error:
        refused(error)
    if (after["pid"], after["upgrades"]) != (before["pid"], before["upgrades"] + 1):
        fail(
            Exit.FAILED, f"the daemon was restarted (process {after['pid']}) instead of upgraded; see its log"
        )
    if as_json:
        say_json(after)
        return
    say(f"version {before['version']} -> {after['version']}, process {after['pid']} as before")
    for line in _kept(before, after):
        say(line)


def _refusals(client: ControlClient) -> list[str]:
    """Why the daemon refuses; empty on success, when the daemon executes the new code and the connection ends
    without an answer.
    """
    try:
        answer: UpgradeDocument = client.post("/api/v1/upgrade", _CHECK_SECONDS)
    except Unreachable:
        return []
    return answer["errors"]


def _kept(before: StatusDocument, after: StatusDocument) -> list[str]:
    """Lines that say how many sessions were kept, and which were not."""
    sessions = [
        {entry["name"]: entry["session"]["id"] for entry in each["tunnels"] if entry["session"]}
        for each in (before, after)
    ]
    kept = [name for name, id in sessions[0].items() if sessions[1].get(name) == id]
    lost = [name for name in sessions[0] if name not in kept]
    lines = [f"kept {len(kept)} of {len(sessions[0])} sessions"]
    return [*lines, f"not kept: {', '.join(lost)}"] if lost else lines
