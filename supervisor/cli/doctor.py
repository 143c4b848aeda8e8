"""`facilitator doctor`: preflight checks of this host, as text or JSON."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from supervisor.cli.options import config_option
from supervisor.cli.output import say, say_json
from supervisor.core.exits import CannotStart, Exit

if TYPE_CHECKING:
    from supervisor.core.preflight.finding import Finding


@click.command()
@click.option("--json", "as_json", is_flag=True, help="JSON output.")
@click.option("--no-files", is_flag=True, help="Do not check the customers' files.")
@config_option
def doctor(config: Path, as_json: bool, no_files: bool) -> None:
    """Check host prerequisites for this configuration.

    Each finding comes with a remedy. Needs no daemon and no privileges, but sees more as root. Changes
    nothing. Exit code 1: there are problems.

    \b
    Example: sudo facilitator doctor -c /etc/facilitator/config.yaml
    """
    from common.configuration.problems import ConfigErrors
    from supervisor.app.files import code_of, errors_of, load
    from supervisor.app.preflight.gather import diagnose
    from supervisor.core.preflight.finding import Severity
    from tunnels.registry import KINDS

    try:
        valid = load(config, KINDS)
    except (ConfigErrors, CannotStart) as problem:
        for line in errors_of(problem):
            say(line, err=True)
        sys.exit(code_of(problem))
    findings = diagnose(config, valid, KINDS, with_files=not no_files)
    fit = all(finding.severity is not Severity.PROBLEM for finding in findings)
    if as_json:
        say_json({"fit": fit, "findings": [_document(finding) for finding in findings]})
    else:
        from supervisor.cli.findings import print_findings

        print_findings(findings)
    sys.exit(Exit.OK if fit else Exit.FAILED)


def _document(finding: Finding) -> dict[str, str]:
    return {
        "severity": finding.severity.value,
        "subject": finding.subject,
        "text": finding.text,
        "remedy": finding.hint,
    }
