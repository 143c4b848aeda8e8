"""Which clients of an earlier daemon still run, so that this one can go on with them.

journal -> living -> Found (pinned by a pidfd) -> Runner.adopt; everything else of an earlier daemon is ended
(`clients.sweep`)
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from supervisor.clients import processes
from supervisor.clients.process_journal import JournalEntry


@dataclass(frozen=True, slots=True)
class FoundClient:
    """A recorded client process that is that one and no later one with its pid. Whoever gets it closes
    `pidfd`.
    """

    entry: JournalEntry
    pidfd: int
    child: bool  # ours: only then the kernel tells us how it ended for certain


def living(entries: Iterable[JournalEntry]) -> list[FoundClient]:
    """Those that can be gone on with. A child of ours that has ended is among them: its end is still to be
    heard of.
    """
    boot = processes.boot_id()
    found = (_pinned(entry, boot) for entry in entries)
    return [one for one in found if one is not None]


def _pinned(entry: JournalEntry, boot: str) -> FoundClient | None:
    """The pidfd comes first: what is looked at afterwards is of the process that it pins."""
    if entry.boot != boot:
        return None
    try:
        pidfd = os.pidfd_open(entry.pid)
    except OSError:
        return None
    known = processes.stat(entry.pid)
    child = known is not None and known.parent == os.getpid()
    if known is not None and known.start == entry.start and (child or known.state != "Z"):
        return FoundClient(entry, pidfd, child)
    os.close(pidfd)
    return None
