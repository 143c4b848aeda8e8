"""Why this process is being ended: a SIGTERM looks the same for a stop, a restart and a shutdown."""

from __future__ import annotations

import enum
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
