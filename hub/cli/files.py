"""Reading the hub's configuration for a command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from hub.config.reading import ConfigErrors, HubSettings, section

EXIT_FAILED, EXIT_CONFIG = 1, 78  # sysexits.h: EX_CONFIG
DEFAULT_CONFIG = Path("/etc/facilitator-hub/config.yaml")
_VARIABLE = "FACILITATOR_HUB_CONFIG"

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., Any])
SectionT = TypeVar("SectionT", bound=HubSettings)


def config_option(command: AnyCommand) -> AnyCommand:
    """`-c FILE`."""
    return click.option(
        "-c",
        "--config",
        type=click.Path(path_type=Path, readable=False),
        default=Path(os.environ.get(_VARIABLE, DEFAULT_CONFIG)),
        show_default=True,
        help=f"The configuration file; ${_VARIABLE} names another default.",
    )(command)


def read_section(config: Path, key: str, model: type[SectionT]) -> SectionT:
    """The settings under this key; exits with all mistakes when they cannot be used."""
    try:
        text = config.read_text()
        settings = section(text, str(config), key, model)
    except (OSError, UnicodeDecodeError) as error:
        give_up(EXIT_CONFIG, f"{config}: {getattr(error, 'strerror', None) or 'it is not UTF-8'}")
    except ConfigErrors as errors:
        give_up(EXIT_CONFIG, str(errors))
    if settings is None:
        give_up(EXIT_CONFIG, f"{config}: it has no section `{key}`")
    return settings


def give_up(code: int, sentence: str) -> NoReturn:
    """Print this on stderr and exit."""
    click.echo(f"facilitator-hub: {sentence}", err=True)
    sys.exit(code)
