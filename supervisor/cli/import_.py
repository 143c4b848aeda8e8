"""`facilitator import`: a customer's file or command line becomes an entry of the configuration."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from supervisor.cli.options import config_option, fail, tunnel_name
from supervisor.cli.output import say
from supervisor.core.exits import CannotStart, Exit

if TYPE_CHECKING:
    from supervisor.app.importing import OpenedSource, PlannedImport
    from supervisor.config.entry import EntryChoices
    from tunnels.networks import IPNetwork
    from tunnels.proposals import ProposedTunnel


def _networks(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[Any, ...]:
    from tunnels.settings import parse_network

    try:
        return tuple(map(parse_network, values))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command("import")
@click.argument("sources", nargs=-1, required=True, metavar="FILE...")
@click.option("--write", is_flag=True, help="Copy the files and write the entry; without it, only show them.")
@click.option(
    "--name", callback=tunnel_name, help="Name of the tunnel; without it, made from the file or gateway."
)
@click.option(
    "--destination", "destinations", multiple=True, callback=_networks, help="A network behind the tunnel."
)
@click.option("--probe", "targets", multiple=True, help="A probe target, such as tcp://10.77.0.10:443.")
@click.option("--username", help="The account, where the file asks for a login or names no user.")
@click.option("--code", is_flag=True, help="The login needs a one-time password (TOTP).")
@config_option
def import_(
    config: Path,
    sources: tuple[str, ...],
    write: bool,
    name: str | None,
    destinations: tuple[IPNetwork, ...],
    targets: tuple[str, ...],
    username: str | None,
    code: bool,
) -> None:
    """Turn a customer's file into a tunnel.

    Reads an OpenVPN profile (.ovpn), a WireGuard .conf, strongSwan's swanctl.conf or ipsec.conf, a
    configuration of vpnc, Cisco's old client (.pcf) or openfortivpn, or a text with the command line of
    openconnect, openfortivpn or sshuttle; a command line may also be the argument itself, in quotes. Scripts
    are never carried over.

    Without --write the entry is only shown. With it, the files are copied to customers/NAME beside the
    configuration, and the entry is written to conf.d/NAME.yaml; nothing is overwritten.

    \b
    Example: facilitator import acme.ovpn --username svc-facilitator --write
             facilitator import 'sshuttle -r ops@bastion.example.net 10.90.0.0/16'
    """
    if len(sources) > 1 and (name or destinations or targets):
        raise click.UsageError("--name, --destination and --probe go with one FILE")
    for source in sources:
        _import_one(config, source, write, username, _chooser(name, destinations, targets, code))


def _chooser(
    name: str | None, destinations: tuple[IPNetwork, ...], targets: tuple[str, ...], code: bool
) -> Callable[[OpenedSource, ProposedTunnel], EntryChoices]:
    from supervisor.config.entry import EntryChoices, name_for, targets_for

    def choose(found: OpenedSource, tunnel: ProposedTunnel) -> EntryChoices:
        networks = destinations or tunnel.networks
        if not networks:
            fail(
                Exit.FAILED,
                f"{found.name} does not say which networks are behind the tunnel; name them with --destination "
                "(the customer knows them)",
            )
        stem = "" if found.path is None else found.path.stem
        chosen = name or name_for(tunnel, stem)
        return EntryChoices(chosen, networks, targets or targets_for(tunnel, networks), code, found.name)

    return choose


def _import_one(
    config: Path,
    argument: str,
    write: bool,
    username: str | None,
    choose: Callable[[OpenedSource, ProposedTunnel], EntryChoices],
) -> None:
    from common.configuration.problems import ConfigErrors
    from supervisor.app import importing
    from supervisor.app.files import code_of, errors_of
    from tunnels.registry import KINDS

    try:
        found = importing.opened(argument, username)
        tunnel = importing.proposed(found, KINDS)
        choices = choose(found, tunnel)
        planned = importing.plan(config, found, tunnel, choices, KINDS)
        if write:
            importing.write(config, planned)
    except importing.ImportRefused as error:
        fail(Exit.FAILED, str(error))
    except (ConfigErrors, CannotStart) as problem:
        for line in errors_of(problem):
            say(line, err=True)
        sys.exit(code_of(problem))
    _show(config, tunnel, choices, planned, write)


def _show(
    config: Path, tunnel: ProposedTunnel, choices: EntryChoices, planned: PlannedImport, written: bool
) -> None:
    directory = config.parent.resolve()
    for line in () if written else planned.text.splitlines():
        say(line)
    for note in (*tunnel.notes, *planned.warnings):
        say(f"note: {note}", err=True)
    for file in (*planned.files, planned.entry) if written else ():
        say(f"wrote {directory / file}")
    for line in _to_be_added(directory, tunnel, choices):
        say(line)
    networks = ", ".join(map(str, choices.destinations))
    done = f"then: facilitator check; facilitator reload    ({choices.name} carries {networks})"
    say(done if written else "nothing was written; repeat it with --write")


def _to_be_added(directory: Path, tunnel: ProposedTunnel, choices: EntryChoices) -> Iterator[str]:
    """What the operator still has to put in place."""
    from supervisor.config.entry import secret_name

    for secret in tunnel.secrets:
        if not secret.optional or choices.code:
            place = directory / secret_name(choices.name, secret.suffix)
            yield f"put {secret.what} into {place}: install -m 0640 -g facilitator /dev/stdin {place}"
    for key in tunnel.files:
        place = directory / "customers" / choices.name / key
        if key == "known_hosts":
            scan = f"mkdir -p {place.parent}; ssh-keyscan {tunnel.server} > {place}"
            yield f"add the host key, and compare its fingerprint: {scan}"
        else:
            yield f"add {place}"
