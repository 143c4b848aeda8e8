"""The sd_notify protocol: how a service tells systemd that it is ready, reloading, stopping or alive.

The app makes one `SystemdNotifier` before anything else starts a process. A message is one datagram of
`NAME=value` lines to the socket in $NOTIFY_SOCKET, see sd_notify(3). No library: from a checkout
`import systemd` would find this repository's folder of that name, and the protocol is this short.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, MutableMapping

_MAX_STATUS_BYTES = 1000  # systemd reads at most 4096 bytes of a whole datagram
_SEND_SECONDS = 0.2  # to wait while the service manager's queue is full


class SystemdNotifier:
    """Sends our state to the service manager; does nothing where there is none. Every method returns True
    when the message was sent, never raises, and blocks for 0.2 s at most.

    The variables are removed from the environment, so that no child can send messages in our name
    (sd_notify(3), `unset_environment`).
    """

    watchdog_interval: float | None
    """Seconds between two calls of `watchdog`, a third of WatchdogSec=; None: no watchdog is configured."""

    environment: Mapping[str, str]
    """The removed variables, for the program that replaces this one in an upgrade."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        self.environment = {
            name: environ.pop(name)
            for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
            if name in environ
        }
        get = self.environment.get
        self._address = _address(get("NOTIFY_SOCKET", ""))
        self.watchdog_interval = _watchdog_interval(get("WATCHDOG_USEC", ""), get("WATCHDOG_PID", ""))

    def ready(self, status: str) -> bool:
        """Start-up, or the reload that `reloading` announced, is complete."""
        return self._send("READY=1", _status(status))

    def status(self, text: str) -> bool:
        """The line that `systemctl status` shows."""
        return self._send(_status(text))

    def reloading(self) -> bool:
        """A reload has begun; `ready` must follow."""
        return self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> bool:
        """The daemon has begun to end."""
        return self._send("STOPPING=1")

    def watchdog(self) -> bool:
        """Reset the watchdog timer."""
        return self._send("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> bool:
        """Start-up, reload or stop needs up to this many seconds from now."""
        return self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}")

    def _send(self, *fields: str) -> bool:
        if self._address is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(_SEND_SECONDS)
                sender.sendto("\n".join(fields).encode(errors="replace"), self._address)
        except OSError:  # a service manager that is gone or stuck must not take the tunnels with it
            return False
        return True


def _address(value: str) -> str | None:
    """The socket in $NOTIFY_SOCKET: a path, or `@name` in the abstract namespace; None for other families
    (vsock).
    """
    if value.startswith("@"):
        return "\0" + value[1:]
    return value if value.startswith("/") else None


def _watchdog_interval(usec: str, pid: str) -> float | None:
    """As sd_watchdog_enabled(3) has it: with the $WATCHDOG_PID of another process the watchdog is
    not ours.
    """
    if pid and pid != str(os.getpid()):
        return None
    return int(usec) / 3_000_000 if usec.isdecimal() and int(usec) > 0 else None


def _status(text: str) -> str:
    """A STATUS= field, cut to its maximum; control characters, which could start another field, become
    spaces.
    """
    line = "".join(c if c.isprintable() else " " for c in text)
    return "STATUS=" + line.encode(errors="replace")[:_MAX_STATUS_BYTES].decode(errors="ignore")
