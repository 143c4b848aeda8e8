"""How long a tunnel has been in trouble: what incidents count, so that one that comes and goes is neither
many incidents nor none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from supervisor.core.state import Snapshot, TunnelState, Want, well
from tunnels.settings import Tunnel

FLAPS = (
    5  # failures without a well stretch of `alert.clear_after` between them that make a tunnel one that flaps
)


@dataclass(frozen=True, slots=True)
class OutageTracker:
    """From the first failure until the tunnel was well for `alert.clear_after`. All moments are monotonic
    seconds.
    """

    since: float  # the first failure
    down_from: float | None  # the present one; None: it is well for the moment
    drops: int = 1  # failures so far
    before: float = 0.0  # seconds that the earlier ones lasted

    def due(self, after: float, not_before: float) -> float:
        """When somebody is called: after so many seconds in which it was not well, or, where it flaps, of
        trouble.
        """
        if self.down_from is None:
            return float("inf")
        down_long_enough = max(self.down_from, not_before) + max(0.0, after - self.before)
        return min(down_long_enough, self.since + after) if self.drops >= FLAPS else down_long_enough


def follow(before: Mapping[str, OutageTracker], snapshot: Snapshot) -> dict[str, OutageTracker]:
    """The troubles that go on or begin. A dead uplink is none of a tunnel's own: it ends them, and they
    begin anew when it is back.
    """
    found = {}
    if snapshot.uplink.alive:
        for name, (tunnel, state) in snapshot.tunnels.items():
            if (
                state.want is Want.UP
                and (trouble := _follow(before.get(name), tunnel, state, snapshot)) is not None
            ):
                found[name] = trouble
    return found


def _follow(
    before: OutageTracker | None, tunnel: Tunnel, state: TunnelState, snapshot: Snapshot
) -> OutageTracker | None:
    since = max(state.well_since, snapshot.uplink.since)
    if not well(tunnel, state):
        if before is None:
            return OutageTracker(since, since)
        if before.down_from is not None and before.down_from >= since:
            return before
        return replace(_ended(before, since), down_from=since, drops=before.drops + 1)
    if before is None or snapshot.now >= since + tunnel.alert.clear_after:
        return None
    return _ended(before, since)


def _ended(trouble: OutageTracker, at: float) -> OutageTracker:
    """The same when its present failure is over."""
    if trouble.down_from is None:
        return trouble
    return replace(trouble, down_from=None, before=trouble.before + max(0.0, at - trouble.down_from))
