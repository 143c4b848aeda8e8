"""What all commands share: options, exit codes, and finding the daemon."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from supervisor import disk
from supervisor.cli.output import say
from supervisor.control.client import ControlClient, Refused, Unreachable
from supervisor.core.exits import Exit
from supervisor.run_arguments import default_config

DEFAULT_RUNTIME_DIR = "/run/facilitator"

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


def tunnel_name(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """A tunnel's name, as it may stand under `tunnels:`; anything else is wrong usage."""
    if value is not None and re.fullmatch(r"[a-z][a-z0-9-]{0,30}", value, re.ASCII) is None:
        raise click.BadParameter(
            f"{value!r} is not a name of a tunnel; at most 31 lower-case letters, digits and '-', a "
            f"letter first"
        )
    return value


def fail(code: Exit, sentence: str) -> NoReturn:
    """One sentence on stderr, and the exit code."""
    say(f"facilitator: {sentence}", err=True)
    sys.exit(code)


def config_option(command: AnyFunction) -> AnyFunction:
    """`-c FILE`, on every command."""
    return click.option(
        "-c",
        "--config",
        type=click.Path(path_type=Path),
        default=default_config(),
        show_default=True,
        help="The configuration file; $FACILITATOR_CONFIG names another default.",
    )(command)


def socket_option(command: AnyFunction) -> AnyFunction:
    """`--socket PATH`, on every command that talks to the daemon."""
    path = click.Path(path_type=Path)
    help = "The daemon's control socket, instead of by the file."
    return config_option(click.option("--socket", "socket_path", type=path, help=help)(command))


def ask(request: Callable[[ControlClient], Any], config: Path, socket_path: Path | None) -> Any:
    """Put a request to the daemon; ends the command with one sentence when there is no good answer."""
    try:
        return request(ControlClient(socket_path or runtime_dir(config) / disk.CONTROL_SOCKET))
    except Unreachable as error:
        fail(Exit.NO_DAEMON, str(error))
    except Refused as error:
        refused(error)


def refused(error: Refused) -> NoReturn:
    """End the command with the daemon's own words."""
    fail(Exit.NO_RIGHT if error.forbidden else Exit.FAILED, str(error))


def runtime_dir(config: Path) -> Path:
    """The runtime directory that the file names, else the default. Lenient: the daemon may run with an
    older, valid file.
    """
    import yaml

    try:
        document = yaml.safe_load(config.read_text())
        named = document["facilitator"]["runtime_dir"]
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError, RecursionError):
        named = None
    return Path(named if isinstance(named, str) else DEFAULT_RUNTIME_DIR)
