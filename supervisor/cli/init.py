"""`facilitator init`: writes the first configuration of a host."""

from __future__ import annotations

import socket
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import click

from supervisor.cli.options import config_option, fail
from supervisor.cli.output import ask, say
from supervisor.core.exits import Exit

_PAGERS = ("pagerduty", "webhook", "none")
_SECRETS = {"pagerduty": "pagerduty-routing-key", "webhook": "webhook-url"}


def _networks(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        _checked_network(value)
    return values


def _checked_network(value: str) -> str:
    """Click's error when this cannot be a network of staff."""
    try:
        if ip_network(value).prefixlen > 0:
            return value
    except ValueError as error:
        raise click.BadParameter(f"{error}; write it as 10.8.0.0/16") from None
    raise click.BadParameter(f"{value} lets everybody in; name the networks of staff")


def _checked_name(value: str) -> str:
    from pydantic import ValidationError

    from supervisor.config.model import Facilitator
    from supervisor.config.validation import validated

    try:
        validated(Facilitator, {"name": value})
    except ValidationError as error:
        raise click.BadParameter(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    return value


@click.command()
@click.option(
    "--name", help="Name of this facilitator in metrics, alerts and logs; the host's name by default."
)
@click.option("--staff", multiple=True, callback=_networks, help="A network of staff, such as 10.8.0.0/16.")
@click.option("--pager", type=click.Choice(_PAGERS), help="Who is told about incidents.")
@click.option("--yes", is_flag=True, help="Ask nothing: what is not given gets its default.")
@config_option
def init(config: Path, name: str | None, staff: tuple[str, ...], pager: str | None, yes: bool) -> None:
    """Write the first configuration of this host.

    Asks for a name, the networks of staff and the pager, and writes a configuration without tunnels, which
    `check` accepts. Never overwrites a file. `facilitator import` adds tunnels.

    \b
    Example: facilitator init
             facilitator init --yes --staff 10.8.0.0/16 --pager pagerduty
    """
    from supervisor.app.importing import ImportRefused, write_new

    if config.exists():
        fail(Exit.FAILED, f"{config} exists and is left as it is; add tunnels with facilitator import")
    host = socket.gethostname()
    if yes and not staff:
        raise click.UsageError("--yes needs --staff NETWORK: nobody else knows who may enter the tunnels")
    chosen = name or (host if yes else ask("Name of this facilitator", host))
    _checked_name(chosen)
    networks = staff or (ask("Network of staff, as 10.8.0.0/16", read=_checked_network),)
    told = pager or ("none" if yes else ask("Pager", "pagerduty", choices=_PAGERS))
    try:
        write_new(config, _text(chosen, networks, told))
    except ImportRefused as error:
        fail(Exit.FAILED, str(error))
    say(f"wrote {config}")
    if told in _SECRETS:
        place = config.parent.resolve() / _SECRETS[told]
        say(f"put the {_what(told)} into {place}: install -m 0640 -g facilitator /dev/stdin {place}")
    say("then: facilitator import FILE --write; facilitator check; facilitator doctor")


def _what(pager: str) -> str:
    return "integration key (Events API v2)" if pager == "pagerduty" else "address that gets the incidents"


def _text(name: str, networks: tuple[str, ...], pager: str) -> str:
    alerts: dict[str, Any] = {
        "pagerduty": "alerts:\n  pagerduty:\n    routing_key: {file: pagerduty-routing-key}\n",
        "webhook": "alerts:\n  webhook:\n    url: {file: webhook-url}\n",
        "none": "# alerts:                            # nobody is told about incidents: docs/configuration.md\n",
    }
    quoted = ", ".join(f'"{each}"' for each in networks)
    return (
        "# Made by facilitator init; every setting there is: config.example.yaml, docs/configuration.md\n"
        f'facilitator:\n  name: "{name}"\n\n'
        f"staff:                               # whose traffic may enter the tunnels\n  networks: [{quoted}]\n\n"
        f"{alerts[pager]}\n"
        "include: conf.d/*.yaml               # one file for each customer; facilitator import writes them\n\n"
        "tunnels: {}\n"
    )
