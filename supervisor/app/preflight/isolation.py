"""What this kernel offers to keep clients apart (`clients.sandbox`): for the doctor, and for one line in
the log at the start.
"""

from __future__ import annotations

from pathlib import Path

import structlog

from supervisor.clients import sandbox, syscalls
from supervisor.core.preflight.isolation import Isolation, missing

_PTRACE_SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")


def isolation() -> Isolation:
    """As this process may use it: what runs the daemon can forbid it too."""
    return Isolation(syscalls.landlock_abi(), sandbox.filters(), _ptrace_scope())


def _ptrace_scope() -> int:
    try:
        return int(_PTRACE_SCOPE.read_text())
    except (OSError, ValueError):
        return 0


def say_what_is_missing() -> None:
    """Once, at the start of the daemon."""
    for text, hint in missing(isolation()):
        structlog.get_logger().warning("clients are not kept apart", text=text, remedy=hint)
