"""What this kernel offers to confine clients (`clients.sandbox`): a fact for preflight checks, and a warning
in the log at the start.
"""

from __future__ import annotations

from pathlib import Path

import structlog

from supervisor.clients import sandbox, syscalls
from supervisor.core.preflight.isolation import Isolation, missing

_PTRACE_SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")


def isolation() -> Isolation:
    """What this process may use: a service manager may forbid more."""
    return Isolation(syscalls.landlock_abi(), sandbox.filters(), _ptrace_scope())


def _ptrace_scope() -> int:
    try:
        return int(_PTRACE_SCOPE.read_text())
    except (OSError, ValueError):
        return 0


def say_what_is_missing() -> None:
    """Log what is missing; once, at the start of the daemon."""
    for text, hint in missing(isolation()):
        structlog.get_logger().warning("clients are not kept apart", text=text, remedy=hint)
