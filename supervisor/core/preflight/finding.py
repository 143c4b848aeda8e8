"""The finding of a preflight check (`facilitator doctor`): one sentence, and a hint what to do."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Severity(enum.StrEnum):
    """How much a finding matters. Only problems make the command fail."""

    OK = "ok"  # as it must be
    INFO = "info"  # good to know, or it cannot be seen from here
    WARNING = "warning"  # it works now, and may fail later
    PROBLEM = "problem"  # some tunnel, or all of them, will not work


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check."""

    severity: Severity
    subject: str  # groups findings for a person
    text: str
    hint: str = ""  # what to do, mostly a command to paste
    certain: bool = True  # it is so; else it may be


def ok(subject: str, text: str) -> Finding:
    """As it must be."""
    return Finding(Severity.OK, subject, text)


def info(subject: str, text: str, hint: str = "") -> Finding:
    """Good to know."""
    return Finding(Severity.INFO, subject, text, hint)


def warning(subject: str, text: str, hint: str) -> Finding:
    """It works now, and may fail later."""
    return Finding(Severity.WARNING, subject, text, hint)


def problem(subject: str, text: str, hint: str) -> Finding:
    """It does not work."""
    return Finding(Severity.PROBLEM, subject, text, hint)


def perhaps(subject: str, text: str, hint: str) -> Finding:
    """It may not work: that cannot be seen from here."""
    return Finding(Severity.WARNING, subject, text, hint, certain=False)
