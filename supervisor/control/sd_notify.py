"""Talks to the service manager that started us: the sd_notify protocol, by hand.

The app makes one `Notifier` before anything else starts a process; the lifecycle (start, reload, stop) and
the engine's self-check call it. The protocol is one datagram of `NAME=value` lines to the socket in
$NOTIFY_SOCKET, see sd_notify(3). No library: from a checkout `import systemd` would find this repository's
folder of that name, and the protocol is this short.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, MutableMapping

_LONGEST_STATUS = 1000  # bytes; systemd reads at most 4096 for a whole datagram
_PATIENCE = 0.2  # seconds to wait while the service manager's queue is full


class Notifier:
    """Tells the service manager how we are; does nothing where there is none. No method raises or blocks
    for more than 0.2 s.

    It takes its variables out of the environment, so that no child can speak in our name (sd_notify(3),
    `unset_environment`).
    """

    watchdog_interval: float | None
    """Seconds between two calls of `watchdog` (a third of what systemd allows); None: nobody watches."""

    environment: Mapping[str, str]
    """These variables, for a program that takes our place in this process."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        self.environment = {
            name: environ.pop(name)
            for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
            if name in environ
        }
        said = self.environment.get
        self._address = _address(said("NOTIFY_SOCKET", ""))
        self.watchdog_interval = _watchdog_interval(said("WATCHDOG_USEC", ""), said("WATCHDOG_PID", ""))

    def ready(self, status: str) -> bool:
        """Start-up, or the reload that `reloading` announced, is complete. Like all methods: True when the
        message was handed over.
        """
        return self._send("READY=1", _status(status))

    def status(self, text: str) -> bool:
        """One line for people, shown by `systemctl status`."""
        return self._send(_status(text))

    def reloading(self) -> bool:
        """The configuration is being read anew; `ready` must follow."""
        return self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> bool:
        """The daemon has begun to end."""
        return self._send("STOPPING=1")

    def watchdog(self) -> bool:
        """We are well: wait another WatchdogSec= for the next call."""
        return self._send("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> bool:
        """Start-up, reload or stop goes on: do not give up for this long from now."""
        return self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}")

    def _send(self, *fields: str) -> bool:
        if self._address is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as speaker:
                speaker.settimeout(_PATIENCE)
                speaker.sendto("\n".join(fields).encode(errors="replace"), self._address)
        except OSError:  # a service manager that is gone or stuck must not take the tunnels with it
            return False
        return True


def _address(value: str) -> str | None:
    """The socket's address from $NOTIFY_SOCKET: a path, or `@name` in the abstract namespace; other
    families (vsock) are not for us.
    """
    if value.startswith("@"):
        return "\0" + value[1:]
    return value if value.startswith("/") else None


def _watchdog_interval(usec: str, pid: str) -> float | None:
    """As sd_watchdog_enabled(3): a $WATCHDOG_PID that is not ours means that the watchdog is another
    process's affair.
    """
    if pid and pid != str(os.getpid()):
        return None
    return int(usec) / 3_000_000 if usec.isdecimal() and int(usec) > 0 else None


def _status(text: str) -> str:
    """A STATUS= line: what would start a new field or is not text becomes a space, and it ends where
    systemd would stop reading.
    """
    line = "".join(c if c.isprintable() else " " for c in text)
    return "STATUS=" + line.encode(errors="replace")[:_LONGEST_STATUS].decode(errors="ignore")
