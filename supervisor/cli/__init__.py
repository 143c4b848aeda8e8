"""Commands; those about running tunnels talk to the daemon through its control socket."""

from __future__ import annotations

from collections import UserDict
from importlib import import_module
from typing import Any

import click

from supervisor.version import version

_HOST = ("run", "check", "plan", "close", "cleanup")
_TUNNELS = ("status", "start", "stop", "restart", "answer", "logs", "reload", "drain")
_ALONE = ("fleet", "doctor", "why", "history", "audit", "alerts", "upgrade", "health", "init", "silence")
_KEYWORDS = ("import", "try")  # their module and function end with an underscore


class _OnDemand(UserDict[str, Any]):
    """Commands by their names; the module of one is loaded when the command is wanted, so that `run` does
    not wait for the others.
    """

    def __getitem__(self, name: str) -> Any:
        module = import_module(f"{__name__}.{self.data[name]}")
        return getattr(module, f"{name}_" if name in _KEYWORDS else name)


_COMMANDS = _OnDemand(
    dict.fromkeys(_HOST, "host")
    | dict.fromkeys(_TUNNELS, "tunnels")
    | {name: name for name in _ALONE}
    | {name: f"{name}_" for name in _KEYWORDS}
)


def _print_version(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    """Print the version and end; only then is it looked up."""
    if wanted and not context.resilient_parsing:
        from supervisor.cli.output import say

        say(f"facilitator, version {version()}")
        context.exit()


@click.group(commands=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version and exit.",
)
def main() -> None:
    """Runs the company's site VPNs once, for everybody, and keeps them up."""
