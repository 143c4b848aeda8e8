"""Commands; those about running tunnels talk to the daemon through its control socket."""

from __future__ import annotations

import click

from supervisor import __version__
from supervisor.cli.alerts import alerts
from supervisor.cli.audit import audit
from supervisor.cli.doctor import doctor
from supervisor.cli.history import history
from supervisor.cli.host import check, cleanup, plan, run
from supervisor.cli.tunnels import answer, drain, logs, reload, restart, start, status, stop
from supervisor.cli.upgrade import upgrade
from supervisor.cli.why import why


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="facilitator")
def main() -> None:
    """Runs the company's site VPNs once, for everybody, and keeps them up."""


for _command in (
    run, check, doctor, plan, status, why, history, audit, alerts, start, stop, restart, answer, logs, reload, drain, upgrade, cleanup,
):
    main.add_command(_command)
