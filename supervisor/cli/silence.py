"""`facilitator silence`: pages nobody for a while."""

from __future__ import annotations

import getpass
import time
from pathlib import Path

import click

from common.quantities import parse_duration
from supervisor.cli.options import complete_tunnels, config_option, fail, state_dir, tunnel_name
from supervisor.cli.output import say, say_json
from supervisor.core.exits import Exit


@click.command()
@click.argument("tunnel", required=False, shell_complete=complete_tunnels)
@click.argument("duration", required=False)
@click.option("--all", "everything", is_flag=True, help="Everything, not one tunnel.")
@click.option("--reason", default="", help="Why; shown with the silence.")
@click.option("--end", is_flag=True, help="End the silence now.")
@click.option("--json", "as_json", is_flag=True, help="The silences as JSON.")
@config_option
def silence(
    config: Path,
    tunnel: str | None,
    duration: str | None,
    everything: bool,
    reason: str,
    end: bool,
    as_json: bool,
) -> None:
    """Page nobody about a tunnel, or about anything, for a while.

    Without arguments the silences are listed. Incidents that begin during a silence are not sent; what still
    stands at its end is sent then. A silence holds over restarts and upgrades, also where no daemon runs.

    \b
    Example: facilitator silence acme-dc 2h --reason "their firewall is replaced"
             facilitator silence --all --end
    """
    from supervisor.app.stores.silence_file import SilenceFile
    from supervisor.core.alerting.silences import Silence
    from supervisor.core.humanize import iso

    if everything and duration is None:
        tunnel, duration = None, tunnel
    tunnel_name(click.get_current_context(), silence.params[0], tunnel)
    if everything == (tunnel is not None) and (everything or duration or end):
        raise click.UsageError("name one TUNNEL, or --all")
    file, name = SilenceFile(state_dir(config)), "" if everything else tunnel or ""
    try:
        if end:
            say("the silence is over" if file.end(name) else "there was no silence")
            return
        if duration is not None:
            now = time.time()
            file.add(Silence(name, now, now + _seconds(duration), getpass.getuser(), reason[:200]))
        found = file.load()
    except PermissionError as error:
        fail(Exit.NO_RIGHT, f"cannot change {error.filename}: run it as root (sudo facilitator silence ...)")
    except (OSError, ValueError) as error:
        fail(Exit.FAILED, f"{file.path}: {error}")
    if as_json:
        say_json({"silences": [{key: getattr(each, key) for key in Silence.__slots__} for each in found]})
        return
    for each in found:
        why = f": {each.reason}" if each.reason else ""
        say(f"{each.tunnel or 'everything'} until {iso(each.until)} ({each.by}{why})")
    if not found:
        say("nothing is silenced")


def _seconds(duration: str) -> float:
    from supervisor.core.alerting.silences import MAX_SECONDS

    try:
        seconds = parse_duration(duration)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if not 0 < seconds <= MAX_SECONDS:
        raise click.UsageError("a silence lasts up to 30d; alert: {enabled: false} is for longer")
    return seconds
