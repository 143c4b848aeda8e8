"""Flap damping: how long and how often a tunnel has been in trouble, so that one that fails and recovers
again and again is neither many incidents nor none.

An outage begins with the first failure and ends when the tunnel was well for `alert.clear_after` without a
break. Within it the seconds of all failures add up (compare BGP route flap damping, RFC 2439).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from supervisor.core.session.reasons import is_failure, is_ordered
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import TunnelState, Want, well
from tunnels.settings import Tunnel

FLAPPING_FAILURES = 5  # failures within one outage from which on the tunnel counts as flapping


@dataclass(frozen=True, slots=True)
class OutageTracker:
    """One outage of a tunnel. All moments are monotonic seconds."""

    since: float  # the first failure
    down_since: float | None  # the present failure; None: it is well at the moment
    failures: int = 1  # of its own: neither an operator's restarts nor other orders
    counted: bool = True  # the present failure is one of them
    earlier_down_seconds: float = 0.0  # how long the failures before the present one lasted, summed up

    @property
    def flapping(self) -> bool:
        """True if it has failed often enough to count as flapping."""
        return self.failures >= FLAPPING_FAILURES

    def pages_at(self, after: float, not_before: float) -> float:
        """The moment at which the outage pages: after it was down for `after` seconds in sum, or, if it is
        flapping, `after` seconds after it began. Downtime before `not_before` does not count.
        """
        if self.down_since is None:
            return float("inf")
        missing = max(0.0, after - self.earlier_down_seconds)
        down_long_enough = max(self.down_since, not_before) + missing
        return min(down_long_enough, self.since + after) if self.flapping else down_long_enough


def track_outages(before: Mapping[str, OutageTracker], snapshot: Snapshot) -> dict[str, OutageTracker]:
    """The outages that go on or begin, by tunnel. A dead uplink is not the tunnels' fault: it ends their
    outages, and they start over when it is back.
    """
    if not snapshot.uplink.alive:
        return {}
    tracked = (
        (name, _track(before.get(name), tunnel, state, snapshot))
        for name, (tunnel, state) in snapshot.tunnels.items()
        if state.want is Want.UP
    )
    return {name: outage for name, outage in tracked if outage is not None}


def _track(
    before: OutageTracker | None, tunnel: Tunnel, state: TunnelState, snapshot: Snapshot
) -> OutageTracker | None:
    since = max(state.well_since, snapshot.uplink.since)
    if not well(tunnel, state):
        own = not is_ordered(state.reason)
        if before is None:
            return OutageTracker(since, since, int(own), own)
        if before.down_since is not None and before.down_since >= since:
            failed = is_failure(state.reason) and not before.counted  # after what was ordered
            return replace(before, failures=before.failures + 1, counted=True) if failed else before
        down = replace(_recovered(before, since), down_since=since)
        return replace(down, failures=before.failures + int(own), counted=own)
    if before is None or snapshot.now >= since + tunnel.alert.clear_after:
        return None
    return _recovered(before, since)


def _recovered(outage: OutageTracker, at: float) -> OutageTracker:
    """The outage after its present failure is over."""
    if outage.down_since is None:
        return outage
    down_seconds = outage.earlier_down_seconds + max(0.0, at - outage.down_since)
    return replace(outage, down_since=None, earlier_down_seconds=down_seconds)
