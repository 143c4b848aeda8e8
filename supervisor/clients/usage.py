"""What a client costs, asked when somebody scrapes the metrics and never in between.

Read straight from /proc, because a scrape asks for every client at once: a few system calls each, and no
library between.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from supervisor.clients import processes

_TICK = os.sysconf("SC_CLK_TCK")  # a second, in the kernel's accounts
_PAGE = os.sysconf("SC_PAGE_SIZE")  # bytes


@dataclass(frozen=True, slots=True)
class ResourceUsage:
    """Resources of a client's process tree now."""

    cpu_seconds: float  # user and system, descendants that have ended included
    resident_bytes: int
    open_files: int  # descriptors


def usage_of(pid: int) -> ResourceUsage | None:
    """Usage of the tree below `pid`; None: it is gone. Safe in any thread; what we may not look into is
    left out.
    """
    ticks = pages = files = members = 0
    tree = [pid]
    for member in tree:  # which grows meanwhile
        fields = processes.stat_fields(member)
        if fields is None:
            continue
        members += 1
        ticks += sum(map(int, fields[11:15]))  # user, system, and both of the children that have ended
        pages += int(fields[21])
        files += _open_files(member)
        if children := processes.children(member, threads=int(fields[17])):
            tree += children.difference(tree)
    return ResourceUsage(ticks / _TICK, pages * _PAGE, files) if members else None


def _open_files(pid: int) -> int:
    """Since Linux 6.2 the directory's size is their number, and before that it is 0."""
    path = f"/proc/{pid}/fd"
    try:
        return os.stat(path).st_size or len(os.listdir(path))
    except OSError:  # it is gone, or another user's
        return 0
