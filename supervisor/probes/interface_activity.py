"""Passive liveness: what the interfaces' counters show between two probe rounds.

Received packets prove that the path works, so the next round is postponed. Sent packets without received ones
make it start at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from supervisor.ticks import until_tick

SAMPLE_SECONDS = 1.0  # between two samples of the counters
STALLED_SAMPLES = 2  # in a row with packets sent and none received

# Bytes received and sent by an interface; None: there is no such interface.
LinkBytes = Callable[[str], tuple[int, int] | None]


@dataclass(slots=True)
class InterfaceMeter:
    """The samples of one interface. Moments are seconds of the loop's clock."""

    device: str
    count: tuple[int, int] | None = None  # the last sample: bytes received and sent
    sampled_at: float = 0.0
    received_at: float = float("-inf")  # the last sample before something was received
    unanswered: int = 0  # samples in a row with packets sent and none received
    stalled: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, count: tuple[int, int] | None, now: float) -> None:
        """One sample."""
        before, since = self.count, self.sampled_at
        self.count, self.sampled_at = count, now
        if before is None or count is None or count[0] < before[0]:  # an interface that was created again
            self.unanswered = 0
        elif count[0] > before[0]:
            self.received_at, self.unanswered = since, 0
        else:
            self.unanswered = self.unanswered + 1 if count[1] > before[1] else 0
        if self.unanswered >= STALLED_SAMPLES:
            self.stalled.set()
        else:
            self.stalled.clear()


class InterfaceActivity:
    """Samples the counters of the watched interfaces once a second."""

    def __init__(self, link_bytes: LinkBytes) -> None:
        self._link_bytes = link_bytes
        self._meters: dict[str, InterfaceMeter] = {}
        self._task: asyncio.Task[None] | None = None

    def received(self, device: str) -> int | None:
        """Bytes received by the interface so far; None: there is no such interface."""
        count = self._link_bytes(device)
        return None if count is None else count[0]

    def watch(self, device: str) -> InterfaceMeter:
        """Sample this interface from now on until `forget`."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="interface activity")
        return self._meters.setdefault(device, InterfaceMeter(device))

    def forget(self, device: str) -> None:
        """Stop sampling this interface."""
        self._meters.pop(device, None)

    async def close(self) -> None:
        """Stop sampling."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            for meter in self._meters.values():
                meter.take(self._link_bytes(meter.device), loop.time())
            await until_tick(SAMPLE_SECONDS)
