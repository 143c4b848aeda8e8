"""Commands about this host and the configuration file, which need no running daemon."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from supervisor import disk
from supervisor.cli.options import (
    config_option,
    facilitator_name,
    fail,
    named,
    refused,
    runtime_dir,
    socket_option,
    state_dir,
)
from supervisor.cli.output import say, say_json
from supervisor.cli.plan import plan_text
from supervisor.control.client import ControlClient, Refused, Unreachable
from supervisor.core.exits import CannotStart, Exit

if TYPE_CHECKING:
    from supervisor.app.profiles import Remark
    from supervisor.config.model import Config
    from supervisor.core.views.documents import PlanDocument


_no_files_option = click.option(
    "--no-files", is_flag=True, help="Check the configuration file only, not the customers' files."
)


_json_option = click.option("--json", "as_json", is_flag=True, help="JSON output.")


@click.command()
@config_option
@click.option("--watch", is_flag=True, help="Reload whenever the configuration file changes.")
def run(config: Path, watch: bool) -> None:
    """Run the daemon in the foreground.

    Logs as JSON lines on stdout, readable lines on a terminal. SIGTERM stops it once active flows have
    finished (see `facilitator drain`), a second one within seconds. SIGHUP reloads the configuration.

    \b
    Example: facilitator run -c /etc/facilitator/config.yaml
    """
    from supervisor.app import run as run_daemon

    sys.exit(run_daemon(config, watch=watch))


@click.command()
@_no_files_option
@click.option("--show", is_flag=True, help="Print the resulting settings as a tree; defaults are marked.")
@_json_option
@config_option
def check(config: Path, no_files: bool, show: bool, as_json: bool) -> None:
    """Validate the configuration file and the customers' files.

    Reports every error in one run, each with line and column. Needs no privileges and changes nothing. The
    customers' files are checked as far as they are readable, and each further file that they name is listed.

    \b
    Example: facilitator check -c config.example.yaml
    """
    from supervisor.app.profiles import Weight

    valid = _load(config, as_json=as_json)
    if show and not as_json:
        from supervisor.config.resolved import resolved, tree

        for line in tree(resolved(valid)):
            say(line)
    remarks = [] if no_files else _files(config, valid)
    enclosed = [] if no_files else _enclosed(config, valid)
    missing = (
        *_missing(valid),
        *_hooks(valid),
        *enclosed,
        *(str(each) for each in remarks if each.weight is Weight.WARNING),
    )
    warnings = [*map(str, valid.warnings), *(f"warning: {text}" for text in missing)]
    errors = [str(each) for each in remarks if each.weight is Weight.ERROR]
    if as_json:
        say_json({"valid": not errors, "tunnels": len(valid.tunnels), "errors": errors, "warnings": warnings})
        sys.exit(Exit.CONFIG if errors else Exit.OK)
    for warning in warnings:
        say(warning, err=True)
    for remark in remarks:
        if remark.weight is Weight.READS:
            say(str(remark))
    for error in errors:
        say(error, err=True)
    if errors:
        sys.exit(Exit.CONFIG)
    count = len(valid.tunnels)
    say(f"{config}: configuration OK ({count} tunnel{'' if count == 1 else 's'})")


def _files(path: Path, config: Config) -> list[Remark]:
    """What is to be said about the customers' files."""
    from supervisor.app.files import Files
    from supervisor.app.profiles import examine
    from tunnels.registry import KINDS

    return list(examine(config.tunnels, KINDS, Files(path.resolve().parent, lambda _: None)))


def _enclosed(path: Path, config: Config) -> list[str]:
    """Gateways that lie inside a destination, as far as they are addresses."""
    from supervisor.app.files import Files
    from supervisor.app.preflight.requirements import requirements
    from supervisor.app.preflight.resolving import literal
    from supervisor.core.preflight.addresses import enclosed
    from supervisor.core.preflight.facts import HostFacts
    from tunnels.registry import KINDS

    gateways = literal(config.tunnels, Files(path.resolve().parent, lambda _: None))
    facts = HostFacts(requirements=requirements(config, KINDS), endpoints=gateways)
    return [finding.text for finding in enclosed(facts)]


def _hooks(config: Config) -> list[str]:
    """Hooks whose program this host cannot run; it may be another one that will run them."""
    from supervisor.app.preflight.programs import unusable_program

    return [
        f"tunnels.{name}.hooks.{event}: {trouble}"
        for name, tunnel in config.tunnels.items()
        for event in ("up", "down", "changed")
        if (argv := getattr(tunnel.hooks, event)) is not None
        and (trouble := unusable_program(argv[0])) is not None
    ]


def _missing(config: Config) -> list[str]:
    """What the tunnels need of a host and this one does not have; it may be another one that will run
    them.
    """
    from tunnels.registry import KINDS

    needs = [
        (name, tunnel.kind, need)
        for name, tunnel in config.tunnels.items()
        for need in KINDS[tunnel.kind].required_files
    ]
    return [
        f"tunnels.{name}: {kind} needs {need.path}, which this host does not have; {need.otherwise}"
        for name, kind, need in needs
        if not Path(need.path).exists()
    ]


@click.command()
@_no_files_option
@_json_option
@socket_option
def plan(config: Path, socket_path: Path | None, no_files: bool, as_json: bool) -> None:
    """Show desired routes, rules and NAT, and how the kernel differs.

    Asks the running daemon. Without one, or for a file named with -c that is not in effect, shows what the
    file would configure with no tunnel up.

    \b
    Example: facilitator plan -c new.yaml
    """
    if socket_path is None and named(click.get_current_context(), "config") and not _in_force(config):
        _show_plan(_planned(config, no_files), as_json=as_json)
        return
    try:
        answer: PlanDocument = ControlClient(socket_path or runtime_dir(config) / disk.CONTROL_SOCKET).get(
            "/api/v1/plan"
        )
    except Refused as error:
        refused(error)
    except Unreachable:
        answer = _planned(config, no_files)
    _show_plan(answer, as_json=as_json)


def _show_plan(answer: PlanDocument, *, as_json: bool) -> None:
    if as_json:
        say_json(answer)
    else:
        say(*plan_text(answer))


def _in_force(config: Path) -> bool:
    """Is this the file that the daemon runs with, or ran with, unchanged?"""
    from supervisor.app.stores.last_configuration import in_force

    return in_force(config, state_dir(config))


def _planned(path: Path, no_files: bool) -> PlanDocument:
    """What this file would bring. Tunnels that could not start with their files are named."""
    from supervisor.app.profiles import Weight

    config = _load(path)
    for remark in () if no_files else _files(path, config):
        if remark.weight is Weight.ERROR:
            say(str(remark), err=True)
    return _plan_from(config)


@click.command()
@config_option
def close(config: Path) -> None:
    """Block every destination in the kernel and exit (early boot).

    Run by facilitator-closed.service: no client is started, nothing is routed. If the file cannot be used,
    the destinations that were last in effect are blocked. Running clients continue; beside a running daemon
    nothing is changed. `facilitator cleanup` unblocks them.

    \b
    Example: facilitator close -c /etc/facilitator/config.yaml
    """
    from supervisor import early_close

    sys.exit(early_close.command(config))


@click.command()
@config_option
@click.option(
    "--on-exit",
    is_flag=True,
    help="Do what an orderly shutdown does: with `on_exit: keep` the destinations stay blocked.",
)
def cleanup(config: Path, on_exit: bool) -> None:
    """Remove all routes, rules, tables and clients of facilitator.

    Restores the sysctls that the daemon has changed. The daemon must not be running.

    \b
    Example: facilitator cleanup
    """
    from supervisor.app.cleanup import clean

    try:
        removed = asyncio.run(
            clean(
                runtime_dir(config),
                state_dir(config),
                facilitator_name(config),
                keep=on_exit and _load(config).on_exit == "keep",
            )
        )
    except CannotStart as problem:
        fail(problem.code, str(problem))
    for line in removed or ["nothing was left"]:
        say(line)


def _load(path: Path, *, as_json: bool = False) -> Config:
    """The configuration, or the end: its errors are printed."""
    from common.configuration.problems import ConfigErrors
    from supervisor.app.files import code_of, errors_of, load
    from tunnels.registry import KINDS

    try:
        return load(path, KINDS)
    except (ConfigErrors, CannotStart) as problem:
        errors = list(errors_of(problem))
        if as_json:
            say_json({"valid": False, "tunnels": None, "errors": errors, "warnings": []})
        for line in () if as_json else errors:
            say(line, err=True)
        sys.exit(code_of(problem))


def _plan_from(config: Config) -> PlanDocument:
    from supervisor.app.cleanup import compare_with_kernel

    try:
        return asyncio.run(compare_with_kernel(config))
    except CannotStart as problem:
        fail(problem.code, str(problem))
