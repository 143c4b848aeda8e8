"""Which tunnels `facilitator status` shows, and in what order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supervisor.core.views.documents import StatusDocument, TunnelStatus

_WORST_FIRST = ("failed", "backoff", "starting", "stopping", "up", "stopped")


def _rank(entry: TunnelStatus) -> tuple[int, bool, str]:
    """By state, the worst first."""
    phase = entry["phase"]
    place = _WORST_FIRST.index(phase) if phase in _WORST_FIRST else len(_WORST_FIRST)
    return (-1 if entry["health"] == "unhealthy" else place), entry["degraded"] is None, entry["name"]


SORT_KEYS: Mapping[str, Callable[[TunnelStatus], Any]] = MappingProxyType(
    {
        "name": lambda entry: entry["name"],
        "kind": lambda entry: (entry["kind"], entry["name"]),
        "state": _rank,
        "since": lambda entry: entry["since"],
        "rtt": lambda entry: -(entry["probe_rtt_seconds"] or 0.0),
        "reconnects": lambda entry: -entry["reconnects"],
    }
)


def selected(document: StatusDocument, states: Sequence[str], sort: str | None) -> StatusDocument:
    """Only tunnels in one of these states, if any is named; sorted."""
    tunnels = [entry for entry in document["tunnels"] if not states or states_of(entry) & {*states}]
    if sort is not None:
        tunnels.sort(key=SORT_KEYS[sort])
    return {**document, "tunnels": tunnels}


def states_of(entry: TunnelStatus) -> set[str]:
    """The words for a tunnel's state."""
    health = {entry["health"]} if entry["phase"] == "up" else set()
    return {entry["phase"], *health, *(["degraded"] if entry.get("degraded") else [])}
