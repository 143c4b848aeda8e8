"""What sessions carry, as rows for the history: the bytes of their interface, and the flows (and a proxy's
bytes) of their lane (lane = fwmark = ct mark = routing table).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from supervisor.core.network.traffic import Carried
from supervisor.core.state import Session
from supervisor.reports.history.schema import Statement, lane_traffic, session_bytes
from supervisor.reports.metrics.counters import MonotonicCounter


@dataclass(frozen=True, slots=True)
class TrafficSources:
    """Reads the kernel's counters. Called in the history's thread, but for `link_bytes_now`."""

    # Bytes received and sent by an interface so far; None: there is no such interface.
    link_bytes: Callable[[str], tuple[int, int] | None] = lambda device: None
    link_bytes_now: Callable[[str], tuple[int, int] | None] = lambda device: None  # the same, never cached
    # What the lane of a tunnel's slot has carried; None: not known.
    carried: Callable[[str, int], Carried | None] = lambda tunnel, slot: None


class InterfaceCounter:
    """The bytes of one session. An interface that is created again in it begins at 0."""

    def __init__(self, tunnel: str, session: Session) -> None:
        self.tunnel, self.number, self.slot = tunnel, session.number, session.slot
        self.device = session.device
        self._received, self._sent = MonotonicCounter(resets=True), MonotonicCounter(resets=True)
        self._written: tuple[float, float] | None = None
        self._kept: tuple[int, int] | None = None

    def keep(self, sources: TrafficSources) -> None:
        """Read the counters now, from any thread, for a later `read`: the interface is about to go."""
        self._kept = None if self.device is None else sources.link_bytes_now(self.device)

    def read(self, sources: TrafficSources) -> Statement | None:
        """The row with the interface's counters; None: nothing has changed."""
        reading = None if self.device is None else sources.link_bytes(self.device) or self._kept
        if reading is None:
            return None
        totals = (self._received.read(0, reading[0]), self._sent.read(0, reading[1]))
        if totals == self._written:
            return None
        self._written = totals
        return session_bytes(self.tunnel, self.number, *totals)


class LaneCounter:
    """What passed through the lane of one slot. Its counters outlive sessions: an increase belongs to the
    session that runs.
    """

    def __init__(self) -> None:
        self._flows = MonotonicCounter(resets=True)
        self._received, self._sent = MonotonicCounter(resets=True), MonotonicCounter(resets=True)
        self._before: Carried | None = None

    def read(self, tunnel: str, number: int, carried: Carried) -> Statement | None:
        """The row with the increase since the last reading; None: there is none."""
        if carried == self._before:
            return None
        self._before = carried
        flows = _increase(self._flows, carried.flows)
        if carried.received is None or carried.sent is None:
            return lane_traffic(tunnel, number, flows, None) if flows else None
        proxy_bytes = _increase(self._received, carried.received), _increase(self._sent, carried.sent)
        return lane_traffic(tunnel, number, flows, proxy_bytes) if flows or any(proxy_bytes) else None


def _increase(counter: MonotonicCounter, value: int) -> float:
    before = counter.value
    return counter.read(0, value) - before


class SessionTraffic:
    """Reads counters and gives rows. Not thread-safe: only for the history's thread."""

    def __init__(self, sources: TrafficSources) -> None:
        self._sources = sources
        self._lanes: dict[tuple[str, int], LaneCounter] = {}  # by tunnel and slot

    def rows(self, counters: list[InterfaceCounter]) -> list[Statement]:
        """The rows of these sessions, as far as anything has changed."""
        return [
            row
            for counter in counters
            for row in (counter.read(self._sources), self._lane_row(counter))
            if row is not None
        ]

    def _lane_row(self, counter: InterfaceCounter) -> Statement | None:
        carried = self._sources.carried(counter.tunnel, counter.slot)
        if carried is None:
            return None
        lane = self._lanes.get(key := (counter.tunnel, counter.slot))
        if lane is None:
            lane = self._lanes[key] = LaneCounter()
        return lane.read(counter.tunnel, counter.number, carried)
