"""`facilitator-hub sessions`: runs the session service."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from common.configuration.problems import ConfigErrors
from hub.cli.configuration import BAD_CONFIG, FAILED, RUNNING, config_option, settings_of, stop
from hub.cli.logging import configure_log
from hub.config.model import SessionsSettings


@click.command()
@config_option
@click.option("--check", is_flag=True, help="Validate the configuration and the people file, and exit.")
def sessions(config: Path, check: bool) -> None:
    """Run the session service in the foreground.

    Example: facilitator-hub sessions -c /etc/facilitator-hub/config.yaml
    """
    settings = settings_of(config, "sessions", SessionsSettings)
    configure_log()
    from hub.service.files import HubSecrets
    from hub.service.metrics import HubMetrics
    from hub.service.run import AlreadyRunning, locked, serve
    from hub.service.staff_files import StaffFiles

    try:
        if check:
            StaffFiles(settings, HubSecrets(config.parent), HubMetrics()).read()
            click.echo(f"{config}: configuration OK")
            return
        with locked(settings.database):
            asyncio.run(serve(settings, config.parent))
    except ConfigErrors as errors:
        stop("\n".join(map(str, errors)), BAD_CONFIG)
    except AlreadyRunning as error:
        stop(str(error), RUNNING)
    except (OSError, ValueError) as error:
        stop(f"facilitator-hub sessions: {error}", FAILED)
