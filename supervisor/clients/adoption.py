"""Adoption (takeover): finds the clients of an earlier daemon that still run, so that this one goes on with
them.

    journal -> living -> FoundClient (pinned by a pidfd) -> Runner.adopt

All other processes of an earlier daemon are killed (`supervisor.clients.sweep`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from supervisor.clients import processes
from supervisor.clients.process_journal import JournalEntry


@dataclass(frozen=True, slots=True)
class FoundClient:
    """A recorded client process, verified not to be a later process with the same pid. The receiver closes
    `pidfd`.
    """

    entry: JournalEntry
    pidfd: int
    child: bool  # a child of this process: only then its exit status is certain


def living(entries: Iterable[JournalEntry]) -> list[FoundClient]:
    """The clients that can be adopted. A child of ours that has ended is among them: its exit status was not
    collected yet.
    """
    boot = processes.boot_id()
    found = (_pinned(entry, boot) for entry in entries)
    return [one for one in found if one is not None]


def _pinned(entry: JournalEntry, boot: str) -> FoundClient | None:
    """The pidfd comes first: all later checks are about the process that it pins."""
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
