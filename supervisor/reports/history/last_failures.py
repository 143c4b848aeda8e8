"""The last failures of each tunnel, in memory, for `facilitator why`: fed by transitions, and by the
history at the start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from supervisor.core.state import Failure, Phase, Snapshot, Transition

KEPT = 5  # per tunnel


class Deaths:
    """The recorder that remembers why sessions ended. A removed tunnel takes its failures along."""

    def __init__(self) -> None:
        self._last: dict[str, deque[Failure]] = {}

    @property
    def last(self) -> Mapping[str, Sequence[Failure]]:
        """At most `KEPT` failures by tunnel, oldest first."""
        return {name: tuple(failures) for name, failures in self._last.items()}

    def remember(self, failures: Mapping[str, Sequence[Failure]]) -> None:
        """What earlier runs of the daemon left, oldest first."""
        for tunnel, known in failures.items():
            self._last[tunnel] = deque(known, maxlen=KEPT)

    def record(self, transition: Transition, snapshot: Snapshot) -> None:
        """Remember the failure behind a transition, once; what a client says while it ends replaces what
        we had made of it.
        """
        for gone in self._last.keys() - snapshot.tunnels.keys():
            del self._last[gone]
        known = self._last.setdefault(transition.tunnel, deque(maxlen=KEPT))
        failure = snapshot.tunnels[transition.tunnel][1].failure
        if failure is None or (known and known[-1] == failure):
            return
        if known and transition.before is Phase.STOPPING:
            known.pop()
        known.append(failure)
