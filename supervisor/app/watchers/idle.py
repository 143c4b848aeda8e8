"""Finds an idle moment for the planned reconnect of a tunnel (`reconnect.planned`), and posts it to the
engine.

Nothing runs while no tunnel waits for one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from supervisor.core.events import Event, Quiet
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Phase, Session
from supervisor.engine import Engine

WINDOW_SECONDS = 3.0  # a tunnel must be idle for this long
MAX_IDLE_BYTES_PER_SECOND = 1000.0  # both directions: keep-alives and probes, but nobody at work

Counter = Callable[[str, Session], tuple[int, int] | None]  # bytes of a session so far


class IdleWatch:
    """Posts `Quiet` for each tunnel that waits for it and carries hardly any traffic."""

    def __init__(
        self, engine: Engine, traffic: Counter, post: Callable[[Event], None], window: float = WINDOW_SECONDS
    ) -> None:
        self._engine, self._traffic, self._post, self._window = engine, traffic, post, window

    async def run(self) -> None:
        """Watch, for ever."""
        while True:
            await self._engine.wait_for(lambda snapshot: bool(waiting(snapshot)))
            before = self._read()
            await asyncio.sleep(self._window)
            for name, count in self._read().items():
                if name in before and 0 <= count - before[name] <= MAX_IDLE_BYTES_PER_SECOND * self._window:
                    self._post(Quiet(name))

    def _read(self) -> Mapping[str, int]:
        found = {
            name: self._traffic(name, session) for name, session in waiting(self._engine.snapshot).items()
        }
        return {name: sum(count) for name, count in found.items() if count is not None}


def waiting(snapshot: Snapshot) -> dict[str, Session]:
    """The sessions of the tunnels that wait for an idle moment, by name of the tunnel."""
    return {
        name: state.session
        for name, (_, state) in snapshot.tunnels.items()
        if state.reconnect_by is not None and state.phase is Phase.UP
    }
