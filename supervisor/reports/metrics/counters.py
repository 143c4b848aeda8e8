"""Counters of tunnels: values that only grow, also over reconnects of a tunnel, and are dropped with the
tunnel.

`TransitionCounters` is fed by the engine's thread, `ScrapedCounters` by the scrape's.
"""

from __future__ import annotations

import bisect
import threading
from collections import Counter
from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, field, replace

from supervisor.core.snapshot import Snapshot, Transition
from supervisor.core.state import Phase, RecoveryStep
from tunnels.base import Reason

CONNECT_BUCKETS_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # from start to connected, upper bounds

_RECONNECTING = frozenset({Phase.STARTING, Phase.BACKOFF})
_LOGIN_REFUSED = frozenset({Phase.STOPPING, Phase.BACKOFF, Phase.FAILED})


class SentEvents:
    """Attempts to send an event to PagerDuty, by action and result. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def count(self, action: str, result: str) -> None:
        """Count one attempt."""
        with self._lock:
            self._counts[action, result] += 1

    def counts(self) -> Mapping[tuple[str, str], int]:
        """The attempts since the daemon started."""
        with self._lock:
            return dict(self._counts)


def _planned(transition: Transition) -> bool:
    """True for the end of a session that its standby has replaced, or a planned reconnect by the client
    itself.
    """
    over = transition.ended is not None and transition.after is Phase.STOPPED
    in_place = transition.rung is RecoveryStep.IN_PLACE
    return transition.reason is Reason.PLANNED and (over or in_place)


class MonotonicCounter:
    """One counter over several sources that start at 0 and may overlap: the value of an earlier source is
    kept.
    """

    __slots__ = ("_base", "_last", "_resets")

    def __init__(self, *, resets: bool) -> None:
        """`resets`: a smaller reading of the same source means that it started again at 0; otherwise it is
        ignored.
        """
        self._resets = resets
        self._base = 0.0
        self._last: dict[int, float] = {}  # reading by source

    def read(self, source: int, value: float) -> float:
        """The counter's value after this reading of this source (a session's number)."""
        last = self._last.get(source, 0.0)
        if self._resets and value < last:
            self._base += last
            last = 0.0
        self._last[source] = max(last, value)
        return self.value

    def retire(self, sources: Collection[int]) -> None:
        """Sum up all sources but these, which are over."""
        if len(self._last) <= len(sources):
            return  # there are none, or they can wait
        for source in [source for source in self._last if source not in sources]:
            self._base += self._last.pop(source)

    @property
    def value(self) -> float:
        """The sum over all sources."""
        return self._base + sum(self._last.values())


@dataclass(slots=True)
class TunnelCounts:
    """What happened to one tunnel since the daemon started."""

    reconnects: Counter[str] = field(default_factory=Counter)  # by reason
    recoveries: Counter[str] = field(default_factory=Counter)  # by rung
    login_failures: int = 0
    # Connected sessions per bucket, the last bucket without an upper bound.
    connects: list[int] = field(default_factory=lambda: [0] * (len(CONNECT_BUCKETS_SECONDS) + 1))
    connect_seconds: float = 0.0
    refused_session: int | None = None  # number of the session whose refused login was counted last

    def copy(self) -> TunnelCounts:
        """A copy that later transitions do not change."""
        return replace(
            self,
            reconnects=self.reconnects.copy(),
            recoveries=self.recoveries.copy(),
            connects=self.connects.copy(),
        )


class TransitionCounters:
    """Counts transitions. `record` is for the engine's thread, `take` for the scrape's."""

    def __init__(self) -> None:
        self._counts: dict[str, TunnelCounts] = {}
        self._copies: dict[str, TunnelCounts] = {}  # those that are up to date
        self._lock = threading.Lock()

    def record(self, transition: Transition, snapshot: Snapshot) -> None:
        """Count one transition."""
        with self._lock:
            counts = self._counts.setdefault(transition.tunnel, TunnelCounts())
            self._copies.pop(transition.tunnel, None)
            again = transition.ended is not None and transition.after in _RECONNECTING
            if again or _planned(transition):
                counts.reconnects[transition.reason.value] += 1
            if transition.rung is not None:
                counts.recoveries[transition.rung.value] += 1
            if transition.before is Phase.STARTING and transition.after is Phase.UP:
                counts.connects[bisect.bisect_left(CONNECT_BUCKETS_SECONDS, transition.lasted)] += 1
                counts.connect_seconds += transition.lasted
            if (
                transition.reason is Reason.AUTH
                and transition.after in _LOGIN_REFUSED
                and counts.refused_session != transition.session
            ):
                counts.refused_session = transition.session
                counts.login_failures += 1

    def take(self, tunnels: Container[str]) -> dict[str, TunnelCounts]:
        """The counts of these tunnels, read-only; those of all others are dropped."""
        with self._lock:
            self._counts = {name: counts for name, counts in self._counts.items() if name in tunnels}
            self._copies = {
                name: self._copies.get(name) or counts.copy() for name, counts in self._counts.items()
            }
            return self._copies.copy()


class ScrapedCounters:
    """Counters that are read at each scrape: bytes of the interfaces, CPU time of the clients, flows. One
    thread at a time.
    """

    def __init__(self) -> None:
        self._received: dict[str, MonotonicCounter] = {}
        self._sent: dict[str, MonotonicCounter] = {}
        self._cpu: dict[str, MonotonicCounter] = {}
        self._flows: dict[str, MonotonicCounter] = {}

    def bytes(
        self, tunnel: str, readings: Mapping[int, tuple[int, int] | None]
    ) -> tuple[float, float] | None:
        """Bytes received and sent over all sessions, of which these run; None before the first reading. A
        session's interface may be created again within it.
        """
        received, sent = (
            _total(
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
        """CPU seconds over all sessions. A process of the client's tree that ends takes nothing away."""
        known = {session: seconds for session, seconds in readings.items() if seconds is not None}
        return _total(self._cpu, tunnel, readings, known, resets=False)

    def flows(self, tunnel: str, readings: Mapping[int, int]) -> float | None:
        """Flows over all sessions, `readings` by slot; None before the first reading."""
        return _total(self._flows, tunnel, readings, readings, resets=True)

    def retain(self, tunnels: Container[str]) -> None:
        """Drop all other tunnels."""
        for counters in (self._received, self._sent, self._cpu, self._flows):
            for name in [name for name in counters if name not in tunnels]:
                del counters[name]


def _total(
    counters: dict[str, MonotonicCounter],
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
        counter = counters[tunnel] = MonotonicCounter(resets=resets)
    for session, value in readings.items():
        counter.read(session, value)
    counter.retire(live)
    return counter.value
