"""What a page about a reason or a condition says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunbookPage:
    """The part of the page that nothing else says."""

    meaning: str
    first: str  # what to do first
