"""What the sidecar is told by its configuration, as a value. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SidecarSettings:
    """Times are in seconds."""

    node: str  # the name by which the session service knows this OpenVPN server
    management: Path  # OpenVPN's management socket; its directory holds the lock, the journal and our socket
    url: str  # of the session service
    certificate: Path
    key: Path
    ca: Path
    heartbeat: float = 5.0
    login_patience: float = 10.0  # for which a login waits while the service cannot be reached
    drain_timeout: float | None = 8 * 3600.0  # None: a drain waits until the last client has left
