"""The findings of `facilitator doctor` as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.padding import Padding
from rich.text import Text

from supervisor.cli.console import screen
from supervisor.core.preflight.finding import Finding, Severity

_COLOURS = {
    Severity.OK: "green",
    Severity.INFO: "cyan",
    Severity.WARNING: "yellow",
    Severity.PROBLEM: "bold red",
}
_INDENT = 10  # spaces before a hint
_NO_TERMINAL_WIDTH = 10_000  # characters: one line per finding if the output is no terminal


def print_findings(findings: Sequence[Finding]) -> None:
    """Grouped by subject; a hint stands on lines of its own, so that it can be copied whole."""
    console = screen(_NO_TERMINAL_WIDTH)
    for subject, group in groupby(findings, key=lambda finding: finding.subject):
        console.print(Text(subject, "bold"))
        for finding in group:
            console.print(Padding(_line(finding), (0, 0, 0, 2), expand=False))
            if finding.hint:
                console.print(Text(" " * _INDENT + finding.hint), soft_wrap=True)
    console.print(Text("\n" + _summary(findings)))


def _line(finding: Finding) -> Text:
    return Text.assemble((f"{finding.severity:<8}", _COLOURS[finding.severity]), finding.text)


def _summary(findings: Sequence[Finding]) -> str:
    return ", ".join(_counts(findings)) or "no problems found"


def _counts(findings: Sequence[Finding]) -> Iterator[str]:
    for severity in (Severity.PROBLEM, Severity.WARNING):
        count = sum(finding.severity is severity for finding in findings)
        if count:
            yield f"{count} {severity}{'' if count == 1 else 's'}"
