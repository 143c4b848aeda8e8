"""Which tunnel carries a destination that several can reach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from supervisor.core.state import Snapshot, TunnelState, well
from tunnels.base import IPNetwork
from tunnels.settings import Tunnel

Carriers = Mapping[IPNetwork, str]      # destination, as staff address it -> name of the tunnel


def choose(before: Carriers, snapshot: Snapshot) -> tuple[Carriers, float | None]:
    """The carriers now, and the monotonic moment at which one may change without any event (None: never).

    The well tunnel with the lowest priority number carries. One that comes back takes over only after it was well for its `stable_after`,
    so that a flapping tunnel is not followed; while none is well the last one keeps the destination.
    """
    carriers, moments = {}, []
    for network, candidates in _candidates(snapshot).items():
        name, due = _carrier(before.get(network), candidates, snapshot.now)
        carriers[network] = name
        if due is not None:
            moments.append(due)
    return carriers, min(moments, default=None)


Candidate = tuple[Tunnel, TunnelState]


def _candidates(snapshot: Snapshot) -> dict[IPNetwork, list[Candidate]]:
    found: dict[IPNetwork, list[Candidate]] = {}
    for tunnel, state in snapshot.tunnels.values():
        for destination in tunnel.destinations:
            found.setdefault(destination.staff_side, []).append((tunnel, state))
    return found


def _carrier(before: str | None, candidates: Iterable[Candidate], now: float) -> tuple[str, float | None]:
    ranked = sorted(candidates, key=lambda candidate: (candidate[0].priority, candidate[0].name))
    if len(ranked) == 1:
        return ranked[0][0].name, None
    fit = [candidate for candidate in ranked if well(*candidate)]
    current = next((tunnel.name for tunnel, _ in ranked if tunnel.name == before), None)
    if not fit:
        return current or ranked[0][0].name, None
    if current is None or all(tunnel.name != current for tunnel, _ in fit):
        return fit[0][0].name, None
    return _failed_back(current, fit, now)


def _failed_back(current: str, fit: Iterable[Candidate], now: float) -> tuple[str, float | None]:
    """A better tunnel than the current, well one takes over when it has proven itself; or the moment at which one may."""
    moments: list[float] = []
    for tunnel, state in fit:
        due = state.well_since + tunnel.reconnect.stable_after
        if tunnel.name == current or due <= now:
            return tunnel.name, min(moments, default=None)
        moments.append(due)
    return current, min(moments, default=None)
