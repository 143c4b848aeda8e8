"""The model of the status page (dashboard): the status document, and beside each tunnel its last day, its
measurements and why its sessions ended.

The measurements of the last minutes are kept in memory. To be notified of every change the model is one of
the engine's alerters.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from supervisor.core.alerting.verdict import Alert, Verdict
from supervisor.core.humanize import iso
from supervisor.core.state import Failure, Health, Phase, Session, Snapshot, TunnelState
from supervisor.core.views.documents import (
    DayEntry,
    FailureEntry,
    MeasuresEntry,
    OpenIncidentEntry,
    StatusDocument,
    StatusPageDocument,
    TunnelOnPage,
    TunnelStatus,
)
from supervisor.core.views.history_json import DAY_SECONDS
from supervisor.reports.history.recorder import History

SAMPLE_SECONDS = 5.0  # between two samples
SAMPLES = 60  # that are kept of each tunnel
DAY_SLOTS = 96  # of the last day: a quarter of an hour each
_DAY_VALID_SECONDS = 60.0  # for which a tunnel's last day is not computed again unless its state changes


@dataclass(slots=True)
class _Measures:
    """The latest samples of one tunnel."""

    rtts: deque[float | None] = field(
        default_factory=lambda: deque(maxlen=SAMPLES)
    )  # seconds; None: no answer
    session: int = 0
    at: float = 0.0  # monotonic seconds of the last count
    count: tuple[int, int] | None = None  # bytes received and sent
    rates: tuple[float, float] | None = None  # bytes per second between the last two counts

    def sample(self, state: TunnelState, count: tuple[int, int] | None, now: float) -> None:
        """Add one sample."""
        up = state.phase is Phase.UP
        rounds = state.liveness
        if self.rtts or (up and rounds.last_rtt is not None):
            answered = up and rounds.misses == 0 and rounds.last_rtt is not None
            self.rtts.append(round(rounds.last_rtt or 0.0, 6) if answered else None)
        before, same_session = self.count, self.session == state.session.number
        self.rates = (
            _rates(before, count, now - self.at)
            if same_session and before is not None and count is not None
            else None
        )
        self.session, self.at, self.count = state.session.number, now, count

    def entry(self) -> MeasuresEntry:
        """For the document."""
        received, sent = self.rates or (None, None)
        return {
            "seconds": SAMPLE_SECONDS * SAMPLES,
            "rtts": list(self.rtts),
            "received_per_second": received,
            "sent_per_second": sent,
        }


@dataclass(frozen=True, slots=True)
class _Day:
    """A tunnel's last day as computed at `at` (monotonic seconds), and the tunnel's state then."""

    since: float
    phase: Phase
    health: Health
    at: float
    entry: DayEntry

    def valid(self, state: TunnelState, now: float) -> bool:
        """It needs no new computation yet."""
        unchanged = (self.since, self.phase, self.health) == (state.since, state.phase, state.health)
        return unchanged and now - self.at < _DAY_VALID_SECONDS


@dataclass(frozen=True, slots=True)
class StatusPageInputs:
    """Where the model reads what the status document does not contain."""

    snapshot: Callable[[], Snapshot]
    failures: Callable[[], Mapping[str, Sequence[Failure]]]  # the last ones of each tunnel, oldest first
    # Bytes received and sent by a session; called in a worker thread, one at a time.
    traffic: Callable[[str, Session], tuple[int, int] | None]
    history: History
    wall_offset: float  # turns monotonic seconds into Unix time
    mask: Callable[[str], str] = str  # removes secrets from a text


class StatusPageModel:
    """Makes the status page's document. An Alerter (`set`) and a task (`run`)."""

    def __init__(self, inputs: StatusPageInputs) -> None:
        self._inputs = inputs
        self._measures: dict[str, _Measures] = {}
        self._open: dict[str, Alert] = {}  # incidents
        self._days: dict[str, _Day] = {}
        self._changed = asyncio.Event()

    def set(self, alerts: Mapping[str, Alert]) -> None:
        """Keep the incidents that are open: those that fire, and those that did and are on hold. Something
        has changed.
        """
        before = self._open
        self._open = {
            name: before.get(name, alert)
            if alert.verdict is Verdict.HOLD
            else _opened(alert, before.get(name))
            for name, alert in alerts.items()
            if alert.verdict is Verdict.FIRING or (alert.verdict is Verdict.HOLD and name in before)
        }
        self._notify()

    async def changed(self) -> None:
        """Return as soon as the document may differ."""
        await self._changed.wait()

    async def run(self, interval: float = SAMPLE_SECONDS) -> None:
        """Take a sample every `interval` seconds, for ever."""
        while True:
            snapshot = self._inputs.snapshot()
            counts = await asyncio.to_thread(self._count, snapshot)
            now = time.monotonic()
            known, self._measures = self._measures, {}
            for name, (_, state) in snapshot.tunnels.items():
                self._measures[name] = known.get(name) or _Measures()
                self._measures[name].sample(state, counts.get(name), now)
            self._notify()
            await asyncio.sleep(interval)

    async def document(self, status: StatusDocument, snapshot: Snapshot) -> StatusPageDocument:
        """The status document of this snapshot with everything else that the page shows."""
        measures = {name: each.entry() for name, each in self._measures.items()}
        failures, incidents = self._inputs.failures(), list(self._open.values())
        return await asyncio.to_thread(self._document, status, snapshot, measures, failures, incidents)

    def _document(
        self,
        status: StatusDocument,
        snapshot: Snapshot,
        measures: Mapping[str, MeasuresEntry],
        failures: Mapping[str, Sequence[Failure]],
        incidents: Sequence[Alert],
    ) -> StatusPageDocument:
        """In a worker thread, because a thousand tunnels take their time."""
        days = self._compute_days(snapshot)

        def tunnel(entry: TunnelStatus) -> TunnelOnPage:
            name, error = entry["name"], entry["last_error"]
            return {
                **entry,
                "last_error": None if error is None else self._inputs.mask(error),
                "availability": days[name].entry,
                "deaths": [self._failure(each) for each in reversed(failures.get(name, ()))],
            }

        return {
            **status,
            "tunnels": [tunnel(entry) for entry in status["tunnels"]],
            "measures": {name: measures.get(name) or _Measures().entry() for name in snapshot.tunnels},
            "now": time.time(),
            "incidents": [self._incident(alert) for alert in incidents],
        }

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _count(self, snapshot: Snapshot) -> dict[str, tuple[int, int] | None]:
        return {
            name: self._inputs.traffic(name, state.session)
            for name, (_, state) in snapshot.tunnels.items()
            if state.running
        }

    def _compute_days(self, snapshot: Snapshot) -> dict[str, _Day]:
        """The last day of each tunnel; what is still valid is kept."""
        known, now = self._days, snapshot.now
        self._days = found = {
            name: day
            if (day := known.get(name)) is not None and day.valid(state, now)
            else self._day(name, state, now)
            for name, (_, state) in snapshot.tunnels.items()
        }
        return found

    def _day(self, name: str, state: TunnelState, now: float) -> _Day:
        history = self._inputs.history
        ratio = history.ratios((name,)).get((name, "24h"))
        slots = [slot and slot.value for slot in history.worst_by_part(name, DAY_SECONDS, DAY_SLOTS)]
        entry: DayEntry = {"ratio": _rounded_down(ratio), "last_day": slots}
        return _Day(state.since, state.phase, state.health, now, entry)

    def _failure(self, it: Failure) -> FailureEntry:
        return {
            "at": iso(self._inputs.wall_offset + it.at),
            "reason": it.reason.value,
            "text": self._inputs.mask(it.text),
        }

    def _incident(self, it: Alert) -> OpenIncidentEntry:
        return {
            "name": it.tunnel,
            "severity": it.severity,
            "summary": self._inputs.mask(it.summary),
            "since": iso(self._inputs.wall_offset + it.since),
        }


def _opened(alert: Alert, before: Alert | None) -> Alert:
    """An incident that is open already keeps its beginning."""
    return alert if before is None else replace(alert, since=before.since)


def _rates(before: tuple[int, int], after: tuple[int, int], seconds: float) -> tuple[float, float] | None:
    """Bytes per second; None: the counters were reset, because the interface was made anew."""
    if after[0] < before[0] or after[1] < before[1] or seconds <= 0:
        return None
    return round((after[0] - before[0]) / seconds), round((after[1] - before[1]) / seconds)


def _rounded_down(ratio: float | None) -> float | None:
    """To a hundredth of a percent; only what was always up is 1."""
    if ratio is None or ratio >= 1.0:
        return ratio
    return int(ratio * 10_000) / 10_000
