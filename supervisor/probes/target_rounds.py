"""Rounds over all targets of one session: when the first answers, and which of them do not.

The first answer ends a round for its caller. The other targets have until the timeout all the same, in the
pause before the next round, so that a silent one is known without a further request.
"""

from __future__ import annotations

import asyncio

from supervisor.probes.targets import ProbePath, probe
from tunnels.settings import Probe

Asked = dict[str, asyncio.Task[float | None]]


class TargetRounds:
    """One round after the other; `cancel` ends what still runs."""

    def __init__(self, settings: Probe, path: ProbePath) -> None:
        self._settings, self._path = settings, path
        self._asked: Asked = {}  # of the latest round that is judged, until it was

    def silent(self) -> tuple[str, ...] | None:
        """The targets that did not answer in a round that is over for all of them since this was last asked;
        None: there was none.
        """
        if not self._asked or not all(task.done() for task in self._asked.values()):
            return None
        asked, self._asked = self._asked, {}
        return tuple(target for target, task in asked.items() if task.result() is None)

    async def first_answer(self) -> float | None:
        """A round: seconds until the first target answered; None: none did within the timeout."""
        judged = all(task.done() for task in self._asked.values())  # else its predecessor is not over yet
        asked = {
            target: asyncio.create_task(probe(target, self._path, self._settings.timeout))
            for target in self._settings.targets
        }
        if judged:
            self._asked = asked
        rtt = None
        try:
            for finished in asyncio.as_completed(asked.values()):
                rtt = await finished
                if rtt is not None:
                    return rtt
            return None
        finally:
            if rtt is None or not judged:
                _cancel(asked)

    def cancel(self) -> None:
        """End the round that runs."""
        _cancel(self._asked)
        self._asked = {}


def _cancel(asked: Asked) -> None:
    for task in asked.values():
        task.cancel()
