"""`facilitator try`: one login, step by step, without routes and without paging."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from supervisor import disk
from supervisor.cli.options import complete_tunnels, config_option, fail, runtime_dir
from supervisor.cli.output import paint, prompt, say, say_json
from supervisor.control.client import ControlClient, Refused, Unreachable
from supervisor.core.exits import CannotStart, Exit

if TYPE_CHECKING:
    from common.configuration.problems import ConfigErrors
    from supervisor.config.model import Config
    from supervisor.core.trial import TrialStep
    from tunnels.base import AnyKind
    from tunnels.settings import Tunnel

_RUNS = ("starting", "up", "stopping")
_TEST_NETWORK = "192.0.2.0/24"  # TEST-NET-1, where a file names no destination: nothing is routed anyhow


def _targets(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Click callback: probe targets, or a usage error."""
    from tunnels.targets import parse_target

    try:
        return tuple(value for value in values if parse_target(value))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command("try")
@click.argument("tunnel", metavar="TUNNEL|FILE", shell_complete=complete_tunnels)
@click.option("--username", help="With FILE: the account.")
@click.option(
    "--probe",
    "targets",
    multiple=True,
    callback=_targets,
    help="A probe target, such as tcp://10.77.0.10:443.",
)
@click.option("--anyway", is_flag=True, help="Log in although the daemon has this tunnel up.")
@click.option("--json", "as_json", is_flag=True, help="The steps as JSON.")
@config_option
def try_(
    config: Path, tunnel: str, username: str | None, targets: tuple[str, ...], anyway: bool, as_json: bool
) -> None:
    """Log in once, show each step, and log off.

    Spends one login of the account and pages nobody. This host gets no route, rule or address: probe targets
    are asked in a network namespace that is thrown away (OpenVPN, WireGuard); other kinds log in, and are not
    probed. A tunnel that the daemon has up is refused, because many servers end the first session for a
    second one; stop it before, or add --anyway.

    Exit code 0: every step went well. 1: a step failed.

    \b
    Example: facilitator try acme-dc
             facilitator try acme.ovpn --probe tcp://10.77.0.10:443
    """
    if os.geteuid() != 0:
        fail(Exit.NO_RIGHT, "a client makes an interface: run it as root (sudo facilitator try ...)")
    if os.path.lexists(tunnel):
        with tempfile.TemporaryDirectory(prefix="facilitator-try-") as directory:
            made, name = _imported(Path(directory), tunnel, username)
            _try(made, name, config, targets, anyway, as_json)
    else:
        _try(config, tunnel, config, targets, anyway, as_json)


def _try(path: Path, name: str, main: Path, targets: tuple[str, ...], anyway: bool, as_json: bool) -> None:
    """`path`: the configuration with the tunnel; `main`: that of the daemon."""
    from supervisor.app.trial import TrialInputs, run_trial

    config = _load(path)
    tunnel, kind = _tunnel(config, name, targets)
    if not anyway:
        _require_free(main, name, tunnel, kind)
    steps: list[TrialStep] = []

    def show(step: TrialStep) -> None:
        steps.append(step)
        if not as_json:
            _show(step)

    about = TrialInputs(tunnel, kind, config, path.resolve().parent, show)
    try:
        worked = asyncio.run(run_trial(about))
    except asyncio.CancelledError:  # SIGTERM, SIGHUP
        fail(Exit.FAILED, f"{name}: ended before it was done; logged off")
    if as_json:
        rows = [
            {"step": each.stage.value, "ok": each.ok, "seconds": each.seconds, "text": each.text}
            for each in steps
        ]
        say_json({"tunnel": name, "ok": worked, "steps": rows})
    else:
        say(f"{name}: every step went well; logged off" if worked else f"{name}: failed; nothing is left")
    sys.exit(Exit.OK if worked else Exit.FAILED)


def _show(step: TrialStep) -> None:
    from supervisor.core.trial import TITLES

    mark = paint("ok    ", "green") if step.ok else paint("FAILED", "red", bold=True)
    say(mark, f"  {step.seconds:7.3f} s  {TITLES[step.stage]:20}  {step.text}")


def _load(path: Path) -> Config:
    from common.configuration.problems import ConfigErrors
    from supervisor.app.files import load
    from tunnels.registry import KINDS

    try:
        return load(path, KINDS)
    except (ConfigErrors, CannotStart) as problem:
        _end(problem)


def _end(problem: ConfigErrors | CannotStart) -> NoReturn:
    from supervisor.app.files import code_of, errors_of

    for line in errors_of(problem):
        say(line, err=True)
    sys.exit(code_of(problem))


def _tunnel(config: Config, name: str, targets: tuple[str, ...]) -> tuple[Tunnel, AnyKind]:
    from dataclasses import replace

    from tunnels.registry import KINDS

    if name not in config.tunnels:
        known = ", ".join(config.tunnels) or "none"
        fail(Exit.USAGE, f"there is no file and no tunnel {name!r}; the configuration has {known}")
    tunnel = config.tunnels[name]
    if targets:
        tunnel = replace(tunnel, probe=replace(tunnel.probe, targets=targets))
    return tunnel, KINDS[tunnel.kind]


def _require_free(main: Path, name: str, tunnel: Tunnel, kind: AnyKind) -> None:
    """Exit if the daemon has a session of this tunnel."""
    try:
        answer = ControlClient(runtime_dir(main) / disk.CONTROL_SOCKET).get("/api/v1/status")
    except (Unreachable, Refused):
        return
    running = {each["name"] for each in answer["tunnels"] if each["phase"] in _RUNS}
    if name in running:
        fail(
            Exit.FAILED,
            f"{name} is up in the daemon, and a second login could end that session; facilitator stop {name} "
            f"before, or add --anyway",
        )
    others = _same_account(main, tunnel, kind) & running
    if others:
        fail(
            Exit.FAILED,
            f"{', '.join(sorted(others))} of the daemon uses the same account and is up; facilitator stop it "
            "before, or add --anyway",
        )


def _same_account(main: Path, tunnel: Tunnel, kind: AnyKind) -> set[str]:
    """Tunnels of the daemon's configuration with the same user name."""
    from common.configuration.problems import ConfigErrors
    from supervisor.app.files import load
    from tunnels.registry import KINDS

    if tunnel.login.username is None:
        return set()
    try:
        tunnels = load(main, KINDS).tunnels
    except (ConfigErrors, CannotStart):
        return set()
    return {
        each.name
        for each in tunnels.values()
        if each.kind == kind.name and each.login.username == tunnel.login.username
    }


def _imported(directory: Path, argument: str, username: str | None) -> tuple[Path, str]:
    """A configuration with the tunnel of a customer's file, in a directory that is thrown away. Asks for the
    secrets.
    """
    from common.configuration.problems import ConfigErrors
    from supervisor.app import importing
    from supervisor.config.entry import EntryChoices, name_for, secret_name, targets_for
    from tunnels.networks import IPNetwork
    from tunnels.registry import KINDS
    from tunnels.settings import parse_network

    main = directory / "config.yaml"
    main.write_text("include: conf.d/*.yaml\nstaff: {networks: [198.51.100.0/24]}\n")
    try:
        found = importing.opened(argument, username)
        proposed = importing.proposed(found, KINDS)
        stand_in: tuple[IPNetwork, ...] = (parse_network(_TEST_NETWORK),)
        networks = proposed.networks or stand_in
        name = name_for(proposed, Path(argument).stem)
        choices = EntryChoices(name, networks, targets_for(proposed, networks), False, found.name)
        importing.write(main, importing.plan(main, found, proposed, choices, KINDS))
    except importing.ImportRefused as error:
        fail(Exit.FAILED, str(error))
    except ConfigErrors as problem:
        _end(problem)
    for secret in proposed.secrets:
        if not secret.optional:
            disk.replace(directory / secret_name(name, secret.suffix), prompt(f"{secret.what}:").encode())
    return main, name
