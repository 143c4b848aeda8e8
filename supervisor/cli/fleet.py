"""`facilitator fleet`: all members of a fleet at once, through the local daemon, or by the configuration
alone where none runs.
"""

from __future__ import annotations

import getpass
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlencode

import click

from supervisor.cli.options import AnyFunction, fail, refused, runtime_dir, socket_option, tunnel_argument
from supervisor.cli.output import say, say_json
from supervisor.core.exits import CannotStart, Exit
from supervisor.core.fleet.orders import OrderKind, checked_subject
from supervisor.core.fleet.values import MEMBER_NAME
from supervisor.disk import CONTROL_SOCKET

if TYPE_CHECKING:
    from supervisor.control.client import ControlClient
    from supervisor.core.views.documents import FleetDocument, FleetOrderDocument

_WAIT_SECONDS = 10
AnswerT = TypeVar("AnswerT")


def _user(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Click callback: an address or the name of a person, or a usage error."""
    try:
        return checked_subject(OrderKind.END_USER, value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _member_name(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Click callback: a possible name of a member, or a usage error."""
    if MEMBER_NAME.fullmatch(value) is None:
        raise click.BadParameter(f"{value!r} is not a name of a member")
    return value


def _order_options(command: AnyFunction) -> AnyFunction:
    """What all orders have in common."""
    why = click.option("--why", default="", metavar="TEXT", help="Reason, shown on the other members.")
    wait = click.option(
        "--wait",
        type=click.IntRange(0, 100),
        default=_WAIT_SECONDS,
        show_default=True,
        help="Seconds to wait until all members have followed it.",
    )
    as_json = click.option("--json", "as_json", is_flag=True, help="JSON output.")
    return why(wait(as_json(socket_option(command))))


@click.group()
def fleet() -> None:
    """Show and control all members of a fleet.

    An order stays in effect until it is lifted, also for members that start later. Without a daemon on this
    host the lock engine of the configuration is asked.
    """


@fleet.command()
@click.option("--json", "as_json", is_flag=True, help="JSON output.")
@socket_option
def status(as_json: bool, config: Path, socket_path: Path | None) -> None:
    """Show members, tunnels by member, and active orders.

    Exit code 3: a member is not up. Without `fleet.lock` the members' HTTP servers are asked, for which each
    needs its `api`.

    \b
    Example: facilitator fleet status
    """
    document: FleetDocument = _asked(
        lambda client: client.get("/api/v1/fleet"), lambda remote: remote.status(config), config, socket_path
    )
    if as_json:
        say_json(document)
    else:
        from supervisor.cli.fleet_table import print_fleet

        print_fleet(document)
    if not all(member["up"] for member in document["members"]):
        sys.exit(Exit.NOT_UP)


@fleet.command()
@tunnel_argument()
@_order_options
def stop(tunnel: str, why: str, wait: int, as_json: bool, config: Path, socket_path: Path | None) -> None:
    """Take a tunnel down on every member.

    It stays down, also on members that start later, until `facilitator fleet start`.

    Exit code 1: a member has not followed; it is named.

    \b
    Example: facilitator fleet stop acme-dc --why "asked for by ACME"
    """
    _order("stop", tunnel, False, (why, wait, as_json), config, socket_path)


@fleet.command()
@tunnel_argument()
@_order_options
def start(tunnel: str, why: str, wait: int, as_json: bool, config: Path, socket_path: Path | None) -> None:
    """Lift the order that keeps a tunnel down.

    A tunnel that was stopped on a member itself stays stopped there.

    \b
    Example: facilitator fleet start acme-dc
    """
    _order("stop", tunnel, True, (why, wait, as_json), config, socket_path)


@fleet.command()
@click.argument("member", callback=_member_name)
@click.option("--lift", is_flag=True, help="Accept new flows again.")
@_order_options
def drain(
    member: str, lift: bool, why: str, wait: int, as_json: bool, config: Path, socket_path: Path | None
) -> None:
    """Stop sending new flows to a member.

    Its active flows continue until they finish, at most for `drain.timeout`. Its daemon keeps running.

    \b
    Example: facilitator fleet drain vpn2
             facilitator fleet drain vpn2 --lift
    """
    _order("drain", member, lift, (why, wait, as_json), config, socket_path)


@fleet.command("end-user")
@click.argument("user", metavar="ADDRESS|PERSON", callback=_user)
@click.option("--lift", is_flag=True, help="Let the address or person in again.")
@_order_options
def end_user(
    user: str, lift: bool, why: str, wait: int, as_json: bool, config: Path, socket_path: Path | None
) -> None:
    """Cut off a user on every member, by address or person.

    Active connections are reset, and new ones are rejected until the order is lifted. A person is kept out at
    every address that the hub names, now and later.

    \b
    Example: facilitator fleet end-user 10.8.1.7 --why "laptop lost"
             facilitator fleet end-user alice
             facilitator fleet end-user alice --lift
    """
    _order("end-user", user, lift, (why, wait, as_json), config, socket_path)


def _order(
    kind: str, subject: str, lift: bool, how: tuple[str, int, bool], config: Path, socket_path: Path | None
) -> None:
    why, wait, as_json = how
    by = f"{getpass.getuser()}@{socket.gethostname()}"
    query = urlencode({"wait": wait, "why": why} | ({"lift": 1} if lift else {}))
    done: FleetOrderDocument = _asked(
        lambda client: client.post(f"/api/v1/fleet/orders/{kind}/{quote(subject, safe='')}?{query}", wait),
        lambda remote: remote.order(config, (kind, subject, by, why, time.time()), wait, lift=lift),
        config,
        socket_path,
    )
    if as_json:
        say_json(done)
    _report(done, quiet=as_json)


def _report(done: FleetOrderDocument, *, quiet: bool) -> None:
    """Say who has followed. Exit code 1: not everybody."""
    order = done["order"]
    name, missing = f"{order['kind']} {order['subject']}", order["missing"]
    if done["lifted"]:
        if missing:
            fail(Exit.FAILED, f"{name}: lifted; still followed by {', '.join(missing)}")
        if not quiet:
            say(f"{name}: lifted, followed by nobody any more after {done['seconds']:.1f} s")
        return
    said = order["acknowledged"]
    under_way = [each["member"] for each in said if not each["done"]]
    sentence = f"{name}: acknowledged by {len(said)} of {len(said) + len(missing)} in {done['seconds']:.1f} s"
    if not missing and not under_way:
        if not quiet:
            say(sentence)
        return
    sentence += f"; in progress on {', '.join(under_way)}" if under_way else ""
    sentence += (
        f"; not by {', '.join(missing)}, for which it holds as soon as they read it" if missing else ""
    )
    fail(Exit.FAILED, sentence)


def _asked(
    through: Callable[[ControlClient], AnswerT],
    directly: Callable[[ModuleType], AnswerT],
    config: Path,
    socket_path: Path | None,
) -> AnswerT:
    """The daemon's answer; where none runs, what the configuration makes possible."""
    from supervisor.control.client import ControlClient, Refused, Unreachable

    try:
        return through(ControlClient(socket_path or runtime_dir(config) / CONTROL_SOCKET))
    except Refused as error:
        refused(error)
    except Unreachable as error:
        if socket_path is not None:
            fail(Exit.NO_DAEMON, str(error))
    from supervisor.app.files import code_of, errors_of
    from supervisor.app.fleet import remote  # slow to import, and seldom needed
    from supervisor.config import ConfigErrors

    try:
        return directly(remote)
    except (ConfigErrors, CannotStart) as problem:
        fail(code_of(problem), "; ".join(errors_of(problem)))
    except LookupError as none:
        fail(Exit.FAILED, str(none.args[0]))
    except OSError as error:
        fail(Exit.NO_DAEMON, str(error))
