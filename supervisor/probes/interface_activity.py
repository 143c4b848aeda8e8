"""What the counters of the tunnels' devices tell between two probe rounds, without a packet of ours.

Something came out: the path lives, the next round may wait. Something goes in and nothing comes out: it had
better come at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

LOOK = 1.0  # seconds between two looks at the counters
STALLED = 2  # looks in a row that show packets going in and none coming out

LinkBytes = Callable[
    [str], tuple[int, int] | None
]  # received and sent of a device; None: there is no such device


@dataclass(slots=True)
class Meter:
    """One device."""

    device: str
    count: tuple[int, int] | None = None
    looked_at: float = 0.0  # moment on the loop's clock
    received_at: float = float("-inf")  # the moment after which something came out last
    unanswered: int = 0  # looks in a row
    stalled: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, count: tuple[int, int] | None, now: float) -> None:
        """One look."""
        before, since = self.count, self.looked_at
        self.count, self.looked_at = count, now
        if before is None or count is None or count[0] < before[0]:  # a device that was made anew
            self.unanswered = 0
        elif count[0] > before[0]:
            self.received_at, self.unanswered = since, 0
        else:
            self.unanswered = self.unanswered + 1 if count[1] > before[1] else 0
        if self.unanswered >= STALLED:
            self.stalled.set()
        else:
            self.stalled.clear()


class InterfaceActivity:
    """Looks at all devices that somebody wants to know about, once a second."""

    def __init__(self, link_bytes: LinkBytes) -> None:
        self._link_bytes = link_bytes
        self._meters: dict[str, Meter] = {}
        self._task: asyncio.Task[None] | None = None

    def received(self, device: str) -> int | None:
        """Bytes that have come out of the device until now; None: there is none."""
        count = self._link_bytes(device)
        return None if count is None else count[0]

    def watch(self, device: str) -> Meter:
        """The meter of a device, from now on until `forget`."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="pulse")
        return self._meters.setdefault(device, Meter(device))

    def forget(self, device: str) -> None:
        """Nobody wants to know any more."""
        self._meters.pop(device, None)

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            for meter in self._meters.values():
                meter.take(self._link_bytes(meter.device), loop.time())
            await asyncio.sleep(LOOK)
