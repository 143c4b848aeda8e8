"""Drains in words, the same in the log, in `status`, on the status page and for systemd."""

from __future__ import annotations

from collections.abc import Mapping

from supervisor.core.humanize import duration
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Drain
from supervisor.core.views.documents import DrainEntry


def drains(snapshot: Snapshot) -> Mapping[str, Drain]:
    """By name, the tunnels that take no new flows and wait for the end of the others. While the whole daemon
    drains also sessions that were replaced.
    """
    found = {}
    for name, (_, state) in snapshot.tunnels.items():
        if state.drain is not None:
            found[name] = state.drain
        standby = state.standby
        if snapshot.draining and standby is not None and standby.drain is not None:
            found[f"{name} (replaced session)"] = standby.drain
    return found


def all_counted(snapshot: Snapshot) -> bool:
    """The flows that are left are known for each of them."""
    return all(drain.left is not None for drain in drains(snapshot).values())


def waits_for(snapshot: Snapshot) -> str:
    """What the drain waits for, such as `acme-dc 3 flows, own-cloud 1 flow`; empty: nothing."""
    return ", ".join(f"{name} {flows(drain.left)}" for name, drain in drains(snapshot).items())


def flows(left: int | None) -> str:
    """How many flows are left, such as `3 flows`."""
    if left is None:
        return "flows not counted yet"
    return "1 flow" if left == 1 else f"{left} flows"


def flows_left(drain: DrainEntry) -> str:
    """A drain of the status document, such as `3 flows left, silent for at most 12 s`."""
    return f"{flows(drain['flows_left'])} left, silent for at most {duration(drain['longest_idle_seconds'])}"


def silence(snapshot: Snapshot) -> str:
    """For how long the flow that is idle for longest has been idle, such as `12 s`."""
    return duration(max((drain.idle for drain in drains(snapshot).values()), default=0.0))
