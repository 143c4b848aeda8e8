"""What commands share: options, errors as exit codes, and the daemon's control socket."""

from __future__ import annotations

import re
import socket
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
DEFAULT_STATE_DIR = "/var/lib/facilitator"
_COMPLETION_SECONDS = 2.0  # that a person waits for names at most

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


def tunnel_name(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Click callback: a valid name of a tunnel, or a usage error."""
    if value is not None and re.fullmatch(r"[a-z][a-z0-9-]{0,30}", value, re.ASCII) is None:
        raise click.BadParameter(
            f"{value!r} is not a valid tunnel name; at most 31 lower-case letters, digits and '-', a "
            f"letter first"
        )
    return value


def complete_tunnels(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """The names for tab completion, from the running daemon; none if it does not answer."""
    config, chosen = context.params.get("config"), context.params.get("socket_path")
    path = chosen or runtime_dir(Path(config or default_config())) / disk.CONTROL_SOCKET
    try:
        document = ControlClient(path, _COMPLETION_SECONDS).get("/api/v1/status")
    except (Unreachable, Refused):
        return []
    given = context.params.get("tunnels") or ()
    names = [entry["name"] for entry in document["tunnels"]]
    return [name for name in names if name.startswith(begun) and name not in given]


def tunnel_argument(required: bool = True) -> Callable[[AnyFunction], AnyFunction]:
    """TUNNEL, which a shell can complete."""
    return click.argument("tunnel", callback=tunnel_name, required=required, shell_complete=complete_tunnels)


def tunnel_arguments(command: AnyFunction) -> AnyFunction:
    """TUNNEL..., any number."""

    def checked(
        context: click.Context, parameter: click.Parameter, value: tuple[str, ...]
    ) -> tuple[str, ...]:
        for name in value:
            tunnel_name(context, parameter, name)
        return value

    return click.argument(
        "tunnels", metavar="[TUNNEL]...", nargs=-1, callback=checked, shell_complete=complete_tunnels
    )(command)


def fail(code: Exit, sentence: str) -> NoReturn:
    """Print one sentence on stderr and exit with this code."""
    say(f"facilitator: {sentence}", err=True)
    sys.exit(code)


def config_option(command: AnyFunction) -> AnyFunction:
    """`-c FILE`, on every command."""
    return click.option(
        "-c",
        "--config",
        type=click.Path(path_type=Path, readable=False),
        default=default_config(),
        show_default=True,
        help="Configuration file (or set $FACILITATOR_CONFIG).",
    )(command)


def named(context: click.Context, option: str) -> bool:
    """Was this option given on the command line (and not by a default or the environment)?"""
    return context.get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE


def socket_option(command: AnyFunction) -> AnyFunction:
    """`--socket PATH`, on every command that talks to the daemon."""
    path = click.Path(path_type=Path)
    help = "Control socket (default: from the configuration)."
    return config_option(click.option("--socket", "socket_path", type=path, help=help)(command))


def ask(
    request: Callable[[ControlClient], Any],
    config: Path,
    socket_path: Path | None,
    otherwise: Callable[[], str] = str,
) -> Any:
    """Send a request to the daemon; exits with one sentence if it cannot be reached or refuses. `otherwise`:
    what is to be said besides when it cannot be reached.
    """
    try:
        return request(ControlClient(socket_path or runtime_dir(config) / disk.CONTROL_SOCKET))
    except Unreachable as error:
        fail(Exit.NO_DAEMON, f"{error}{otherwise()}")
    except Refused as error:
        refused(error)


def refused(error: Refused) -> NoReturn:
    """Exit with the daemon's own error message."""
    fail(Exit.NO_RIGHT if error.forbidden else Exit.FAILED, str(error))


def runtime_dir(config: Path) -> Path:
    """The runtime directory from the configuration file, or the default."""
    return Path(_of_facilitator(config, "runtime_dir") or DEFAULT_RUNTIME_DIR)


def state_dir(config: Path) -> Path:
    """The state directory from the configuration file, or the default."""
    return Path(_of_facilitator(config, "state_dir") or DEFAULT_STATE_DIR)


def facilitator_name(config: Path) -> str:
    """The facilitator's name from the configuration file, or the host's."""
    return _of_facilitator(config, "name") or socket.gethostname()


def _of_facilitator(config: Path, key: str) -> str | None:
    """A text below `facilitator:`, if there is one. Lenient, because the daemon may run with an older, valid
    version of a file that is broken now.
    """
    import yaml

    try:
        found = yaml.safe_load(config.read_text())["facilitator"][key]
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) else None
