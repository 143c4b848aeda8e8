"""One line about all tunnels, for `systemctl status` and the log."""

from __future__ import annotations

import asyncio

from common.sd_notify import SystemdNotifier
from supervisor.core.snapshot import Snapshot, Transition
from supervisor.core.state import up
from supervisor.core.views.drain_text import silence, waits_for


def summary(snapshot: Snapshot) -> str:
    """How many tunnels are up, and what a drain still waits for."""
    count = sum(up(state) for _, state in snapshot.tunnels.values())
    text = f"{count} of {len(snapshot.tunnels)} tunnels up"
    if left := waits_for(snapshot):
        return f"{text}, draining: {left}, silent for at most {silence(snapshot)}"
    return f"{text}, draining" if snapshot.draining else text


class SystemdStatus:
    """A recorder (`supervisor.outputs`) that keeps the line of `systemctl status` up to date: one line
    for all transitions that are recorded together.
    """

    def __init__(self, notifier: SystemdNotifier) -> None:
        self._notifier = notifier
        self._latest: Snapshot | None = None

    def record(self, transition: Transition, snapshot: Snapshot) -> None:
        """Send the line to systemd soon (STATUS=, sd_notify(3))."""
        if self._latest is None:
            asyncio.get_running_loop().call_soon(self._send)
        self._latest = snapshot

    def _send(self) -> None:
        latest, self._latest = self._latest, None
        if latest is not None:
            self._notifier.status(summary(latest))
