"""Steps of a tunnel that have failed by a fault of this program: the tunnel stays as it was, and the step is
tried again after a pause, so that nothing spins.
"""

from __future__ import annotations

from collections.abc import Iterator, Set

from supervisor.core.events import Asked, Event, Exited, ReconnectDue, SpawnFailed, Tick

STEP_RETRY_SECONDS = 5.0


class PostponedSteps:
    """Tunnels whose deadlines are postponed, and events that are delivered again. Moments are monotonic
    seconds.
    """

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._again: list[tuple[float, Event]] = []

    def __contains__(self, tunnel: str) -> bool:
        """Its deadlines are postponed."""
        return tunnel in self._until

    @property
    def tunnels(self) -> Set[str]:
        """Those whose deadlines are postponed."""
        return self._until.keys()

    def postpone(self, event: Event, now: float) -> None:
        """The step at this event has failed. A deadline comes again by itself; the end of a client does not,
        so it is delivered again.
        """
        if isinstance(event, Tick | Asked | ReconnectDue):
            self._until[event.tunnel] = now + STEP_RETRY_SECONDS
        elif isinstance(event, Exited | SpawnFailed):
            self._again.append((now + STEP_RETRY_SECONDS, event))

    def due(self, now: float) -> list[Event]:
        """The events to deliver again now; deadlines that were postponed until now count again."""
        self._until = {name: until for name, until in self._until.items() if until > now}
        events = [event for at, event in self._again if at <= now]
        self._again = [(at, event) for at, event in self._again if at > now]
        return events

    def forget(self, tunnel: str) -> None:
        """The tunnel does not exist any more."""
        self._until.pop(tunnel, None)
        self._again = [(at, event) for at, event in self._again if event.tunnel != tunnel]

    @property
    def moments(self) -> Iterator[float]:
        """When something is tried again."""
        yield from self._until.values()
        yield from (at for at, _ in self._again)
