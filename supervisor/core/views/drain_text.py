"""How far a drain is, for people: what the log, `status`, the status page and the service manager say
alike.
"""

from __future__ import annotations

from collections.abc import Mapping

from supervisor.core.humanize import lasting
from supervisor.core.state import Drain, Snapshot
from supervisor.core.views.documents import DrainEntry


def drains(snapshot: Snapshot) -> Mapping[str, Drain]:
    """The tunnels that take nothing new and wait for the end of their flows; of the whole daemon also
    sessions that were replaced.
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
    """What holds up the end, such as `acme-dc 3 flows, own-cloud 1 flow`; empty when nothing does."""
    return ", ".join(f"{name} {flows(drain.left)}" for name, drain in drains(snapshot).items())


def flows(left: int | None) -> str:
    """What is left, such as `3 flows`."""
    if left is None:
        return "flows not counted yet"
    return "1 flow" if left == 1 else f"{left} flows"


def flows_left(drain: DrainEntry) -> str:
    """The `drain` of a tunnel in the status document in words, such as `3 flows left, silent for at most
    12 s`.
    """
    return f"{flows(drain['flows_left'])} left, silent for at most {lasting(drain['longest_idle_seconds'])}"


def silence(snapshot: Snapshot) -> str:
    """For how long the most silent of these flows has been silent, such as `12 s`."""
    return lasting(max((drain.idle for drain in drains(snapshot).values()), default=0.0))
