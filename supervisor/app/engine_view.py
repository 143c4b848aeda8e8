"""What other parts of the daemon read from the engine, or demand of it, although they are made before it.

The engine is made last, because it drives all others (`supervisor.outputs`). Some of these need to know its
plan, its snapshot or a tunnel's lane: they get this view, which `supervisor.app.wiring.build` completes at
its end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from supervisor.core.network.plan import NetworkPlan
from supervisor.core.snapshot import Snapshot
from tunnels.networks import IPAddress
from tunnels.settings import Tunnel


class ReadableEngine(Protocol):
    """The part of `supervisor.engine.Engine` that is only read."""

    @property
    def snapshot(self) -> Snapshot:
        """All tunnels now."""

    @property
    def plan(self) -> NetworkPlan:
        """What the kernel should hold now."""

    def overdue(self) -> float:
        """Seconds by which the engine is late for its nearest deadline."""

    def tunnel(self, name: str) -> Tunnel:
        """Its settings. KeyError: there is no such tunnel."""

    def lane(self, tunnel: str, slot: int) -> int | None:
        """lane = fwmark = ct mark = routing table of a slot; None: there is no such tunnel."""


class DemandableEngine(ReadableEngine, Protocol):
    """The part of it that a fleet needs besides."""

    def deny(self, sources: tuple[IPAddress, ...], by: str = "fleet") -> None:
        """Let these staff addresses in nowhere from now on, and end what they have under way."""

    def drained_by(self) -> float:
        """The moment (monotonic seconds) at which a drain that begins now is over at the latest."""

    async def wait_for(self, condition: Callable[[Snapshot], bool]) -> None:
        """Return as soon as the snapshot satisfies the condition."""


STALLED_SECONDS = 10.0  # how late the engine may be before /healthz fails and no watchdog is fed


def stalled(engine: ReadableEngine) -> str | None:
    """Why the engine counts as stuck; None: it works."""
    late = engine.overdue()
    return None if late < STALLED_SECONDS else f"the engine is {late:.0f} s late"


class EngineView:
    """A `DemandableEngine`. Nothing may be read before `complete`: nothing runs before that either."""

    def __init__(self) -> None:
        self._engine: DemandableEngine | None = None

    def complete(self, engine: DemandableEngine) -> None:
        """From now on everything is read from this engine."""
        self._engine = engine

    @property
    def _complete(self) -> DemandableEngine:
        assert self._engine is not None, "read from the engine before it was made"
        return self._engine

    @property
    def snapshot(self) -> Snapshot:
        """See `ReadableEngine`."""
        return self._complete.snapshot

    @property
    def plan(self) -> NetworkPlan:
        """See `ReadableEngine`."""
        return self._complete.plan

    def overdue(self) -> float:
        """See `ReadableEngine`."""
        return self._complete.overdue()

    def tunnel(self, name: str) -> Tunnel:
        """See `ReadableEngine`."""
        return self._complete.tunnel(name)

    def lane(self, tunnel: str, slot: int) -> int | None:
        """See `ReadableEngine`."""
        return self._complete.lane(tunnel, slot)

    def deny(self, sources: tuple[IPAddress, ...], by: str = "fleet") -> None:
        """See `DemandableEngine`."""
        self._complete.deny(sources, by)

    def drained_by(self) -> float:
        """See `DemandableEngine`."""
        return self._complete.drained_by()

    async def wait_for(self, condition: Callable[[Snapshot], bool]) -> None:
        """See `DemandableEngine`."""
        await self._complete.wait_for(condition)
