"""What `facilitator doctor` says: one sentence about one thing, and what to do about it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Severity(enum.StrEnum):
    """How much a finding matters. Only problems make the command fail."""

    OK = "ok"  # it is as it must be
    INFO = "info"  # good to know, or it cannot be seen from here
    WARNING = "warning"  # it works, and something will hurt later
    PROBLEM = "problem"  # some tunnel, or all of them, will not work


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    severity: Severity
    subject: str  # groups findings for a person
    text: str
    remedy: str = ""  # what to do, mostly a command to paste
    certain: bool = True  # it is so; else it may be


def ok(subject: str, text: str) -> Finding:
    """All is well."""
    return Finding(Severity.OK, subject, text)


def info(subject: str, text: str, remedy: str = "") -> Finding:
    """Good to know."""
    return Finding(Severity.INFO, subject, text, remedy)


def warning(subject: str, text: str, remedy: str) -> Finding:
    """It will hurt later."""
    return Finding(Severity.WARNING, subject, text, remedy)


def problem(subject: str, text: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(Severity.PROBLEM, subject, text, remedy)


def perhaps(subject: str, text: str, remedy: str) -> Finding:
    """It may hurt: nobody can tell from here."""
    return Finding(Severity.WARNING, subject, text, remedy, certain=False)
