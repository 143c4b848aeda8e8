"""Why this process is being ended: a SIGTERM looks the same for a stop, a restart and a shutdown.

Whoever supervises the daemon knows: systemd (`control.systemd`) or Nomad (`control.nomad`). Without either,
a signal means stop.
"""

from __future__ import annotations

import asyncio
import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass


class StopReason(enum.StrEnum):
    """What the end of this process is part of."""

    STOP = "stop"  # no daemon follows
    DRAIN = "drain"  # the same, because the scheduler empties this host
    SHUTDOWN = "shutdown"  # the host goes down, and waits for the daemon
    RESTART = "restart"  # a daemon follows at once
    UPDATE = "update"  # the same, with a new version of the job
    LOST = "lost"  # the same: the scheduler had lost contact, and starts another allocation
    UNKNOWN = "unknown"  # the supervisor cannot be asked

    @property
    def hands_over(self) -> bool:
        """Another daemon follows on this host: clients, flows and kernel stay as they are for it."""
        return self in (StopReason.RESTART, StopReason.UPDATE, StopReason.LOST)


@dataclass(frozen=True, slots=True)
class StopVerdict:
    """Why the daemon is being ended, and a sentence that says how that is known, or why it is not."""

    reason: StopReason
    text: str


async def stop_reason(environ: Mapping[str, str] = os.environ) -> StopVerdict:
    """Ask the supervisor. Never raises. Takes milliseconds; at most 3 s (systemd), 1 s (Nomad)."""
    from supervisor.control import nomad, systemd  # only the end of the daemon needs them

    if (task := nomad.task(environ)) is not None:
        return await nomad.ask(task, environ)
    return await asyncio.to_thread(systemd.ask)
