"""One line about all tunnels, for `systemctl status` and the log."""

from __future__ import annotations

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
    """A recorder (`supervisor.outputs`) that keeps the line of `systemctl status` up to date."""

    def __init__(self, notifier: SystemdNotifier) -> None:
        self._notifier = notifier

    def record(self, transition: Transition, snapshot: Snapshot) -> None:
        """Send the line to systemd (STATUS=, sd_notify(3))."""
        self._notifier.status(summary(snapshot))
