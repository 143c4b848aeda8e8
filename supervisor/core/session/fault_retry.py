"""What is tried again when the step of a tunnel has failed by a fault of ours: the tunnel stays as it was,
and nothing spins.
"""

from __future__ import annotations

from collections.abc import Iterator

from supervisor.core.events import Asked, Event, Exited, ReconnectDue, SpawnFailed, Tick

REST = 5.0  # seconds


class Rests:
    """Tunnels whose deadlines wait, and ends of clients that are told once more. Moments are monotonic
    seconds.
    """

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._missed: list[tuple[float, Event]] = []

    def __contains__(self, tunnel: str) -> bool:
        """Its deadlines wait."""
        return tunnel in self._until

    def rest(self, event: Event, now: float) -> None:
        """The step at this event has failed. A deadline comes again by itself; that a client is gone
        nobody says again.
        """
        if isinstance(event, Tick | Asked | ReconnectDue):
            self._until[event.tunnel] = now + REST
        elif isinstance(event, Exited | SpawnFailed):
            self._missed.append((now + REST, event))

    def over(self, now: float) -> list[Event]:
        """Deadlines that have waited count again; what is to be told now."""
        self._until = {name: until for name, until in self._until.items() if until > now}
        due = [event for at, event in self._missed if at <= now]
        self._missed = [(at, event) for at, event in self._missed if at > now]
        return due

    def forget(self, tunnel: str) -> None:
        """There is no such tunnel any more."""
        self._until.pop(tunnel, None)
        self._missed = [(at, event) for at, event in self._missed if event.tunnel != tunnel]

    @property
    def moments(self) -> Iterator[float]:
        """When something is tried again."""
        yield from self._until.values()
        yield from (at for at, _ in self._missed)
