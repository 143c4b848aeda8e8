"""What went through a tunnel, by its name: joins the counters of lanes and devices with the engine's knowledge of whose they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from supervisor.core.state import Session
from supervisor.core.traffic import Carried
from supervisor.kernel.counters import LaneCounts
from supervisor.kernel.traffic import LinkBytes

SEATS = (0, 1)


class LaneMeter:
    """What the lanes of a tunnel's seats have carried. For one thread at a time."""

    def __init__(self, lane: Callable[[str, int], int | None]) -> None:
        """`lane` gives the number of a tunnel's lane by seat."""
        self._lane, self._counts = lane, LaneCounts()

    def __call__(self, tunnel: str) -> Mapping[int, Carried]:
        """By seat; nothing when the kernel does not answer."""
        counts = self._counts()
        lanes = {seat: self._lane(tunnel, seat) for seat in SEATS}
        return {seat: counts[lane] for seat, lane in lanes.items() if lane is not None and lane in counts}


class SessionMeter:
    """Received and sent bytes of whatever counts for a session: its device, or its lane where a proxy carries. For one thread at a time."""

    def __init__(self, lane: Callable[[str, int], int | None]) -> None:
        self._lanes, self._devices = LaneMeter(lane), LinkBytes()

    def __call__(self, tunnel: str, session: Session) -> tuple[int, int] | None:
        """So far; None: not known."""
        if session.device is not None:
            return self._devices(session.device)
        carried = self._lanes(tunnel).get(session.seat)
        return None if carried is None or carried.received is None or carried.sent is None else (carried.received, carried.sent)
