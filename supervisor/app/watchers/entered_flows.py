"""Finds out whether routers send new flows of staff to this member of the fleet, and posts it to the engine.

Nobody tells: BGP shows a member nothing of the others. But flows that enter a tunnel's lane do. Nothing runs
while every destination that is announced is known to be carried here, or works nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from supervisor.core.events import Event, FlowsEntered
from supervisor.core.fleet.announcements import undecided
from supervisor.core.network.traffic import Carried
from supervisor.engine import Engine
from supervisor.ticks import until_tick

CHECK_SECONDS = 1.0  # between two looks at the counters

Counted = Callable[[str], Mapping[int, Carried]]  # what the lanes of a tunnel have carried, by slot


class EnteredFlowsWatch:
    """Posts `FlowsEntered` for each tunnel that is announced as one that could carry, once new flows come."""

    def __init__(
        self, engine: Engine, counted: Counted, post: Callable[[Event], None], interval: float = CHECK_SECONDS
    ) -> None:
        self._engine, self._counted, self._post, self._interval = engine, counted, post, interval

    async def run(self) -> None:
        """Watch, for ever."""
        before: Mapping[str, int] = {}
        while True:
            if not self._undecided():
                before = {}  # what comes until it is asked again says nothing
                await self._engine.wait_for(lambda snapshot: bool(self._undecided()))
            now = self._flows()
            for name, flows in now.items():
                if name in before and flows > before[name]:
                    self._post(FlowsEntered(name))
            before = now
            await until_tick(self._interval)

    def _undecided(self) -> frozenset[str]:
        return undecided(self._engine.plan.announced, self._engine.snapshot)

    def _flows(self) -> dict[str, int]:
        return {
            name: sum(count.flows for count in self._counted(name).values()) for name in self._undecided()
        }
