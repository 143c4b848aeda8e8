"""CPU, memory and descriptors of a client, read from /proc when metrics are scraped.

No library: a scrape asks for every client at once, so it has to be a few system calls each.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from supervisor.clients import processes

_TICK = os.sysconf("SC_CLK_TCK")  # per second (proc(5))
_PAGE = os.sysconf("SC_PAGE_SIZE")  # bytes


@dataclass(frozen=True, slots=True)
class ResourceUsage:
    """What a client's process tree uses now."""

    cpu_seconds: float  # user and system, descendants that have ended included
    resident_bytes: int
    open_files: int  # descriptors


def usage_of(pid: int) -> ResourceUsage | None:
    """Usage of the process tree below `pid`; None: it has ended. Safe in any thread; what may not be read is
    left out.
    """
    ticks = pages = files = members = 0
    tree = [pid]
    for member in tree:  # which grows during the loop
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
    """The size of the directory is their number since Linux 6.2; before, it is 0."""
    path = f"/proc/{pid}/fd"
    try:
        return os.stat(path).st_size or len(os.listdir(path))
    except OSError:  # it has ended, or belongs to another user
        return 0
