"""What a client costs, asked when somebody scrapes the metrics and never in between."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import psutil

from supervisor.clients import processes


@dataclass(frozen=True, slots=True)
class Usage:
    """Resources of a client's process tree now."""

    cpu_seconds: float      # user and system, descendants that have ended included
    resident_bytes: int
    open_files: int         # descriptors


def usage_of(pid: int) -> Usage | None:
    """Usage of the tree below `pid`; None: it is gone. Safe in any thread; what we may not look into is left out."""
    found = [used for member in (pid, *processes.descendants(pid)) if (used := _one(member)) is not None]
    if not found:
        return None
    return Usage(sum(u.cpu_seconds for u in found), sum(u.resident_bytes for u in found), sum(u.open_files for u in found))


def _one(pid: int) -> Usage | None:
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times, resident = process.cpu_times(), process.memory_info().rss
    except psutil.Error:
        return None
    files = 0
    with contextlib.suppress(psutil.Error):     # another user's process
        files = process.num_fds()
    return Usage(times.user + times.system + times.children_user + times.children_system, resident, files)
