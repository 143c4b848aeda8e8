"""The configuration file of a command, and how a command ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn, TypeVar

import click

from common.configuration.problems import ConfigErrors
from hub.config.reading import HubSettings, section

DEFAULT = Path("/etc/facilitator-hub/config.yaml")
VARIABLE = "FACILITATOR_HUB_CONFIG"

FAILED, NO_ANSWER, RUNNING, NO_RIGHT, BAD_CONFIG = 1, 4, 75, 77, 78  # exit codes

SettingsT = TypeVar("SettingsT", bound=HubSettings)

config_option = click.option(
    "-c", "--config", type=click.Path(path_type=Path), default=lambda: Path(os.environ.get(VARIABLE, DEFAULT)),
    help=f"Configuration file (default: ${VARIABLE}, then {DEFAULT}).",
)  # fmt: skip


def settings_of(config: Path, key: str, model: type[SettingsT]) -> SettingsT:
    """The settings under this key; ends the command when there are none, or wrong ones."""
    try:
        found = section(config.read_text(), str(config), key, model)
    except ConfigErrors as errors:
        stop("\n".join(map(str, errors)), BAD_CONFIG)
    except (OSError, ValueError) as error:
        stop(f"{config}: {error.strerror if isinstance(error, OSError) else error}", BAD_CONFIG)
    if found is None:
        stop(f"{config}: it has no group `{key}`, which this command needs", BAD_CONFIG)
    return found


def stop(text: str, code: int) -> NoReturn:
    """End the command with a sentence."""
    click.echo(text, err=True)
    sys.exit(code)
