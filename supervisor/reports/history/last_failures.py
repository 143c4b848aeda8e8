"""The last failures of each tunnel, in memory, for `facilitator why` and the status page."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from supervisor.core.snapshot import Snapshot, Transition
from supervisor.core.state import Failure, Phase

MAX_FAILURES = 5  # per tunnel


class LastFailures:
    """The `Recorder` (`supervisor.outputs`) that remembers why sessions ended. For the engine's thread."""

    def __init__(self) -> None:
        self._by_tunnel: dict[str, deque[Failure]] = {}

    @property
    def by_tunnel(self) -> Mapping[str, Sequence[Failure]]:
        """At most `MAX_FAILURES` per tunnel, oldest first."""
        return {name: tuple(failures) for name, failures in self._by_tunnel.items()}

    def restore(self, failures: Mapping[str, Sequence[Failure]]) -> None:
        """Begin with the failures of earlier runs of the daemon, oldest first."""
        for tunnel, known in failures.items():
            self._by_tunnel[tunnel] = deque(known, maxlen=MAX_FAILURES)

    def record(self, transition: Transition, snapshot: Snapshot) -> None:
        """Remember the failure behind a transition, once. What a client says while it ends replaces the
        reason that was known before. The failures of removed tunnels are dropped.
        """
        for removed in self._by_tunnel.keys() - snapshot.tunnels.keys():
            del self._by_tunnel[removed]
        known = self._by_tunnel.setdefault(transition.tunnel, deque(maxlen=MAX_FAILURES))
        failure = snapshot.tunnels[transition.tunnel][1].failure
        if failure is None or (known and known[-1] == failure):
            return
        if known and transition.before is Phase.STOPPING:
            known.pop()
        known.append(failure)
