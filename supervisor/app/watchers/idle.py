"""Looks for a quiet moment of the tunnels that wait for one, and tells the engine. Costs nothing while
none waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from supervisor.core.events import Event, Quiet
from supervisor.core.state import Phase, Session, Snapshot
from supervisor.engine import Engine

WINDOW = 3.0  # seconds that must be quiet
MURMUR = 1000.0  # bytes a second, both ways: keep-alives and probes, but no person at work

Counter = Callable[[str, Session], tuple[int, int] | None]  # bytes of a session so far


class QuietWatch:
    """Posts `Quiet` for tunnels that wait for it, when hardly anything passes."""

    def __init__(
        self, engine: Engine, traffic: Counter, post: Callable[[Event], None], window: float = WINDOW
    ) -> None:
        self._engine, self._traffic, self._post, self._window = engine, traffic, post, window

    async def run(self) -> None:
        """Watch, for ever."""
        while True:
            await self._engine.wait_for(lambda snapshot: bool(waiting(snapshot)))
            before = self._read()
            await asyncio.sleep(self._window)
            for name, count in self._read().items():
                if name in before and 0 <= count - before[name] <= MURMUR * self._window:
                    self._post(Quiet(name))

    def _read(self) -> Mapping[str, int]:
        found = {
            name: self._traffic(name, session) for name, session in waiting(self._engine.snapshot).items()
        }
        return {name: sum(count) for name, count in found.items() if count is not None}


def waiting(snapshot: Snapshot) -> dict[str, Session]:
    """The sessions of the tunnels that wait for a quiet moment, by name."""
    return {
        name: state.session
        for name, (_, state) in snapshot.tunnels.items()
        if state.reconnect_by is not None and state.phase is Phase.UP
    }
