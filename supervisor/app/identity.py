"""Who this daemon is, and how its clocks differ."""

from __future__ import annotations

import os
import socket
import time

from supervisor.config import Config
from supervisor.core.views.documents import EndEntry
from supervisor.core.views.status_json import DaemonIdentity
from supervisor.version import version


def daemon_identity(config: Config, upgrades: int, last_end: EndEntry | None) -> DaemonIdentity:
    """Who this daemon is. `last_end`: how the one before it ended."""
    name = config.facilitator.name or socket.gethostname()
    offset = time.time() - time.monotonic()
    runbooks = config.facilitator.runbook_url or ""
    return DaemonIdentity(name, version(), os.getpid(), time.time(), offset, upgrades, last_end, runbooks)


def utc_offset() -> float:
    """Seconds to add to the monotonic clock for local wall-clock time."""
    now = time.time()
    return now - time.monotonic() + time.localtime(now).tm_gmtoff
