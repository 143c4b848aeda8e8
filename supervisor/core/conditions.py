"""What is wrong beyond the state of a single tunnel: named, so that status, incidents and people speak of the same thing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that is wrong now, in a sentence."""

    text: str
    severity: str = "error"                     # PagerDuty's word
    look_further: str = "facilitator status"    # the command that shows more
