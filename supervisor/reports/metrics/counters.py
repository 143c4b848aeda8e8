"""What is counted about tunnels: everything that only grows, one record per tunnel, so that a removed
tunnel takes its counts along.

Transitions come from the engine's thread, readings from the scrape's; counters never go back over reconnects
of a tunnel.
"""

from __future__ import annotations

import bisect
import threading
from collections import Counter
from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, field, replace

from supervisor.core.state import Phase, RecoveryStep, Snapshot, Transition
from tunnels.base import Reason

BUCKETS = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # seconds from start to connected

_AGAIN = frozenset({Phase.STARTING, Phase.BACKOFF})
_AUTH_SEEN = frozenset({Phase.STOPPING, Phase.BACKOFF, Phase.FAILED})


class SentEvents:
    """Attempts to send an event to PagerDuty, by action and result. For any thread."""

    def __init__(self) -> None:
        self._counting = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def count(self, action: str, result: str) -> None:
        """One more."""
        with self._counting:
            self._counts[action, result] += 1

    def counts(self) -> Mapping[tuple[str, str], int]:
        """So far."""
        with self._counting:
            return dict(self._counts)


def _replaced(transition: Transition) -> bool:
    """A session that another one had taken the place of is over, or the client begins one anew by itself."""
    over = transition.ended is not None and transition.after is Phase.STOPPED
    in_place = transition.rung is RecoveryStep.IN_PLACE
    return transition.reason is Reason.PLANNED and (over or in_place)


class Rising:
    """A counter over sources that begin anew, and may overlap: what an earlier source had reached is kept."""

    __slots__ = ("_base", "_last", "_resets")

    def __init__(self, *, resets: bool) -> None:
        """`resets`: a smaller reading of the same source means that it began anew; otherwise it is
        ignored.
        """
        self._resets = resets
        self._base = 0.0
        self._last: dict[int, float] = {}

    def read(self, source: int, value: float) -> float:
        """The counter after this reading of this source (a session's number)."""
        last = self._last.get(source, 0.0)
        if self._resets and value < last:
            self._base += last
            last = 0.0
        self._last[source] = max(last, value)
        return self.value

    def settle(self, sources: Collection[int]) -> None:
        """All other sources are over."""
        if len(self._last) <= len(sources):
            return  # then there are none, or they can wait
        for source in [source for source in self._last if source not in sources]:
            self._base += self._last.pop(source)

    @property
    def value(self) -> float:
        """The sum over all sources."""
        return self._base + sum(self._last.values())


@dataclass(slots=True)
class Counts:
    """What happened to one tunnel since the daemon started."""

    reconnects: Counter[str] = field(default_factory=Counter)  # by reason
    recoveries: Counter[str] = field(default_factory=Counter)  # by rung
    login_failures: int = 0
    connects: list[int] = field(
        default_factory=lambda: [0] * (len(BUCKETS) + 1)
    )  # per bucket, the last one without a bound
    connect_seconds: float = 0.0
    refused_session: int | None = None  # whose refused login was counted last

    def copy(self) -> Counts:
        """One consistent moment of it."""
        return replace(
            self,
            reconnects=self.reconnects.copy(),
            recoveries=self.recoveries.copy(),
            connects=self.connects.copy(),
        )


class Tally:
    """The recorder that counts."""

    def __init__(self) -> None:
        self._counts: dict[str, Counts] = {}
        self._taken: dict[str, Counts] = {}  # copies that are still right
        self._lock = threading.Lock()

    def record(self, transition: Transition, snapshot: Snapshot) -> None:
        """Count one transition."""
        with self._lock:
            counts = self._counts.setdefault(transition.tunnel, Counts())
            self._taken.pop(transition.tunnel, None)
            again = transition.ended is not None and transition.after in _AGAIN
            if again or _replaced(transition):
                counts.reconnects[transition.reason.value] += 1
            if transition.rung is not None:
                counts.recoveries[transition.rung.value] += 1
            if transition.before is Phase.STARTING and transition.after is Phase.UP:
                counts.connects[bisect.bisect_left(BUCKETS, transition.lasted)] += 1
                counts.connect_seconds += transition.lasted
            if (
                transition.reason is Reason.AUTH
                and transition.after in _AUTH_SEEN
                and counts.refused_session != transition.session
            ):
                counts.refused_session = transition.session
                counts.login_failures += 1

    def take(self, tunnels: Container[str]) -> dict[str, Counts]:
        """Counts of these tunnels now, not to be changed; those of all others are forgotten."""
        with self._lock:
            self._counts = {name: counts for name, counts in self._counts.items() if name in tunnels}
            self._taken = {
                name: self._taken.get(name) or counts.copy() for name, counts in self._counts.items()
            }
            return self._taken.copy()


class Readings:
    """Counters that are read at each scrape: bytes of the devices, processor time of the clients. One
    thread at a time.
    """

    def __init__(self) -> None:
        self._received: dict[str, Rising] = {}
        self._sent: dict[str, Rising] = {}
        self._cpu: dict[str, Rising] = {}
        self._flows: dict[str, Rising] = {}

    def bytes(
        self, tunnel: str, readings: Mapping[int, tuple[int, int] | None]
    ) -> tuple[float, float] | None:
        """Received and sent bytes over all sessions, of which these run; None as long as nothing was ever
        read.

        A session's device may be made anew in it.
        """
        received, sent = (
            _risen(
                counters,
                tunnel,
                readings,
                {source: both[way] for source, both in readings.items() if both is not None},
                resets=True,
            )
            for way, counters in enumerate((self._received, self._sent))
        )
        return None if received is None or sent is None else (received, sent)

    def cpu(self, tunnel: str, readings: Mapping[int, float | None]) -> float | None:
        """Processor seconds over all sessions. A process of the client's tree that ends takes nothing
        away.
        """
        known = {session: seconds for session, seconds in readings.items() if seconds is not None}
        return _risen(self._cpu, tunnel, readings, known, resets=False)

    def flows(self, tunnel: str, readings: Mapping[int, int]) -> float | None:
        """Flows of all sessions, by the slot whose counter this is; None as long as nothing was ever read."""
        return _risen(self._flows, tunnel, readings, readings, resets=True)

    def keep(self, tunnels: Container[str]) -> None:
        """Forget all other tunnels."""
        for rising in (self._received, self._sent, self._cpu, self._flows):
            for name in [name for name in rising if name not in tunnels]:
                del rising[name]


def _risen(
    counters: dict[str, Rising],
    tunnel: str,
    live: Collection[int],
    readings: Mapping[int, float],
    *,
    resets: bool,
) -> float | None:
    if tunnel not in counters and not readings:
        return None
    counter = counters.get(tunnel)
    if counter is None:
        counter = counters[tunnel] = Rising(resets=resets)
    for session, value in readings.items():
        counter.read(session, value)
    counter.settle(live)
    return counter.value
