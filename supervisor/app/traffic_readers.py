"""Byte counters by tunnel: joins the counters of lanes and interfaces with the engine's table of lanes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from supervisor.core.network.traffic import Carried
from supervisor.core.state import Session
from supervisor.kernel.counters import LaneCounts, LinkBytes

SLOTS = (0, 1)


class LaneMeter:
    """What the lanes of a tunnel's slots have carried. For one thread at a time."""

    def __init__(self, lane: Callable[[str, int], int | None]) -> None:
        """`lane` gives the number of a tunnel's lane by slot."""
        self._lane, self._counts = lane, LaneCounts()

    def of_slot(self, tunnel: str, slot: int) -> Carried | None:
        """What the lane of this slot has carried; None: not known. The same object as long as nothing
        passes.
        """
        return self._counts().get(self._lane(tunnel, slot) or 0)

    def __call__(self, tunnel: str) -> Mapping[int, Carried]:
        """By slot; nothing when the kernel does not answer."""
        counts, lane = self._counts(), self._lane  # of a thousand tunnels, at each scrape
        return {slot: count for slot in SLOTS if (count := counts.get(lane(tunnel, slot) or 0)) is not None}


class SessionMeter:
    """Received and sent bytes of a session: of its interface, or of its lane if it runs through a proxy. For
    one thread at a time.
    """

    def __init__(self, lane: Callable[[str, int], int | None]) -> None:
        self._lanes, self._devices = LaneMeter(lane), LinkBytes()

    def __call__(self, tunnel: str, session: Session) -> tuple[int, int] | None:
        """So far; None: not known."""
        if session.device is not None:
            return self._devices(session.device)
        carried = self._lanes.of_slot(tunnel, session.slot)
        return (
            None
            if carried is None or carried.received is None or carried.sent is None
            else (carried.received, carried.sent)
        )
