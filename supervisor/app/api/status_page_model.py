"""The model of the status page (dashboard): the status document, and beside each tunnel its last day, its
measurements and why its sessions ended.

The measurements of the last minutes are kept in memory. Traffic is measured every few seconds while somebody
looks at the page, and else once a minute: to read all counters costs more than all else that an idle daemon
does. To be notified of every change the model is one of the engine's alerters.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from supervisor.core.alerting.verdict import Alert, Verdict
from supervisor.core.humanize import iso
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Failure, Health, Phase, Session, TunnelState
from supervisor.core.views.documents import (
    DayEntry,
    FailureEntry,
    FleetDocument,
    MeasuresEntry,
    OpenIncidentEntry,
    StatusDocument,
    StatusPageDocument,
    TunnelOnPage,
    TunnelStatus,
)
from supervisor.core.views.history_json import DAY_SECONDS
from supervisor.reports.history.recorder import History
from supervisor.ticks import until_tick
from tunnels.settings import Tunnel

SAMPLE_SECONDS = 5.0  # between two samples
SAMPLES = 60  # that are kept of each tunnel
UNSEEN_TRAFFIC_SECONDS = 60.0  # between two samples of traffic when nobody has looked for so long
DAY_SLOTS = 96  # of the last day: a quarter of an hour each
_DAY_VALID_SECONDS = 60.0  # for which a tunnel's last day is not computed again unless its state changes


@dataclass(frozen=True, slots=True)
class _Traffic:
    """The bytes that the running sessions had carried at one moment."""

    at: float = 0.0  # monotonic seconds
    # By tunnel: the number of its session, bytes received and sent.
    counts: Mapping[str, tuple[int, tuple[int, int]]] = field(default_factory=dict)


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
    clock: Callable[[], float] = time.monotonic
    fleet: Callable[[], FleetDocument | None] = lambda: None  # what is known of it without asking anybody


class StatusPageModel:
    """Makes the status page's document. An Alerter (`set`) and a task (`run`)."""

    def __init__(self, inputs: StatusPageInputs) -> None:
        self._inputs = inputs
        # By tunnel: seconds of the latest samples, oldest first; None: no answer.
        self._rtts: dict[str, deque[float | None]] = {}
        self._sampled: Mapping[str, tuple[Tunnel, TunnelState]] = {}  # the tunnels at the latest sample
        self._traffic = (_Traffic(), _Traffic())  # the last two samples, the latest one last
        self._open: dict[str, Alert] = {}  # incidents
        self._days: dict[str, _Day] = {}
        self._seen_at = float("-inf")  # monotonic seconds: somebody looked
        self._measuring = asyncio.Lock()
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

    @property
    def open_incidents(self) -> Collection[str]:
        """Their names; in any thread."""
        return self._open.keys()

    async def changed(self) -> None:
        """Return as soon as the document may differ."""
        await self._changed.wait()

    async def run(self, interval: float = SAMPLE_SECONDS) -> None:
        """Take a sample every `interval` seconds, for ever."""
        while True:
            snapshot, now = self._inputs.snapshot(), self._inputs.clock()
            seen = now - self._seen_at < UNSEEN_TRAFFIC_SECONDS
            await self._measure(snapshot, interval / 2 if seen else UNSEEN_TRAFFIC_SECONDS)
            self._sample_rtts(snapshot)
            self._notify()
            await until_tick(interval)

    async def document(self, status: StatusDocument, snapshot: Snapshot) -> StatusPageDocument:
        """The status document of this snapshot with everything else that the page shows."""
        self._seen_at = self._inputs.clock()
        await self._measure(snapshot, SAMPLE_SECONDS)
        measures = {name: self._entry(name) for name in snapshot.tunnels}
        failures, incidents = self._inputs.failures(), list(self._open.values())
        fleet = self._inputs.fleet()
        return await asyncio.to_thread(self._document, status, snapshot, measures, failures, incidents, fleet)

    def _document(
        self,
        status: StatusDocument,
        snapshot: Snapshot,
        measures: dict[str, MeasuresEntry],
        failures: Mapping[str, Sequence[Failure]],
        incidents: Sequence[Alert],
        fleet: FleetDocument | None,
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
            "measures": measures,
            "now": time.time(),
            "incidents": [self._incident(alert) for alert in incidents],
            "fleet": fleet,
        }

    async def _measure(self, snapshot: Snapshot, age: float) -> None:
        """Take a sample of traffic, unless the latest one is younger than so many seconds."""
        async with self._measuring:
            if self._inputs.clock() - self._traffic[1].at >= age:
                counts = await asyncio.to_thread(self._count, snapshot)
                self._traffic = (self._traffic[1], _Traffic(self._inputs.clock(), counts))

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _count(self, snapshot: Snapshot) -> dict[str, tuple[int, tuple[int, int]]]:
        """In a worker thread."""
        running = ((name, state.active) for name, (_, state) in snapshot.tunnels.items())
        return {
            name: (active.session.number, count)
            for name, active in running
            if active is not None and (count := self._inputs.traffic(name, active.session)) is not None
        }

    def _sample_rtts(self, snapshot: Snapshot) -> None:
        """Add one sample of each tunnel that was ever probed with success."""
        known, self._rtts = self._rtts, {}
        unchanged = snapshot.tunnels is self._sampled  # then no further tunnel has been probed
        self._sampled = snapshot.tunnels
        for name in known if unchanged else snapshot.tunnels:
            state = snapshot.tunnels[name][1]
            rounds = state.liveness
            answering = rounds.last_rtt is not None and state.phase is Phase.UP
            if name in known or answering:
                rtts = self._rtts[name] = known.get(name) or deque(maxlen=SAMPLES)
                answered = answering and rounds.misses == 0
                rtts.append(round(rounds.last_rtt or 0.0, 6) if answered else None)

    def _entry(self, name: str) -> MeasuresEntry:
        before, latest = self._traffic
        received, sent = _rates(before, latest, name) or (None, None)
        return {
            "seconds": SAMPLE_SECONDS * SAMPLES,
            "rtts": list(self._rtts.get(name, ())),
            "received_per_second": received,
            "sent_per_second": sent,
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
        segments = history.segments(name, DAY_SECONDS)
        began = segments[0][0] if segments and None in slots[:1] else None
        since = None if began is None else iso(began)
        entry: DayEntry = {"ratio": _rounded_down(ratio), "since": since, "last_day": slots}
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


def _rates(before: _Traffic, latest: _Traffic, tunnel: str) -> tuple[float, float] | None:
    """Bytes received and sent per second between two samples of a session; None: not known, or the counters
    were reset because the interface was recreated.
    """
    if tunnel not in before.counts or tunnel not in latest.counts:
        return None
    (earlier, start), (number, end) = before.counts[tunnel], latest.counts[tunnel]
    seconds = latest.at - before.at
    if earlier != number or end[0] < start[0] or end[1] < start[1] or seconds <= 0:
        return None
    return round((end[0] - start[0]) / seconds), round((end[1] - start[1]) / seconds)


def _rounded_down(ratio: float | None) -> float | None:
    """To a hundredth of a percent; only what was always up is 1."""
    if ratio is None or ratio >= 1.0:
        return ratio
    return int(ratio * 10_000) / 10_000
