"""What can go wrong with the kernel, in words for a person."""

from __future__ import annotations

TIMEOUT = 5.0       # seconds for any single answer of the kernel


class KernelError(Exception):
    """The kernel refuses something that we cannot do without. The text says what and, if known, why."""


class MissingRight(KernelError):
    """The process lacks a capability. The text says which and what for."""
