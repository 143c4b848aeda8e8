"""Commands; those about running tunnels talk to the daemon through its control socket."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

import click

from supervisor.version import version

_HOST = ("run", "check", "plan", "close", "cleanup")
_TUNNELS = ("status", "reload", "drain")
_ORDERS = ("start", "stop", "restart", "answer")
_ALONE = (
    "fleet",
    "doctor",
    "why",
    "history",
    "audit",
    "alerts",
    "upgrade",
    "health",
    "init",
    "silence",
    "completion",
    "logs",
)
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
    | dict.fromkeys(_ORDERS, "orders")
    | {name: name for name in _ALONE}
    | {name: f"{name}_" for name in _KEYWORDS}
)


def _print_version(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    """Print the version and end; only then is it looked up."""
    if wanted and not context.resilient_parsing:
        from supervisor.cli.output import say

        say(f"facilitator, version {version()}")
        context.exit()


# How `--help` groups the commands. One that is in no group is listed last.
_SECTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Daemon": ("run", "reload", "drain", "upgrade", "health", "alerts", "silence"),
        "Tunnels": ("status", "start", "stop", "restart", "answer", "logs", "history", "audit", "try"),
        "Diagnosis": ("check", "doctor", "why", "plan"),
        "Host": ("init", "import", "close", "cleanup", "completion"),
        "Fleet": ("fleet",),
    }
)
_SUMMARY_CHARACTERS = 66  # of a command in `--help`, so that it fits into a line of 80


class _Grouped(click.Group):
    """`--help` lists the commands by what they are about."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One list for each section, with the first sentence of each command's help."""
        left = self.list_commands(ctx)
        for title, names in (*_SECTIONS.items(), ("Other", tuple(left))):
            rows = [(name, self._summary(ctx, name)) for name in names if name in left]
            left = [name for name in left if name not in names]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def _summary(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        return "" if command is None else command.get_short_help_str(_SUMMARY_CHARACTERS)


@click.group(cls=_Grouped, commands=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version and exit.",
)
def main() -> None:
    """Shared gateway for customer VPNs: runs the VPN clients, keeps them connected, and routes your users
    through them.

    `facilitator COMMAND --help` describes a command.
    """
