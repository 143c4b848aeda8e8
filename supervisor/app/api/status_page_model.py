"""The board behind the status page: the status document, and beside each tunnel its last day, what is
measured, and why sessions ended.

The board keeps a few minutes of measures in memory, and hears of each change as an alerter does: the engine
tells its alerters whenever anything is different.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from supervisor.core.alerting.verdict import Alert, Verdict
from supervisor.core.state import Failure, Health, Phase, Session, Snapshot, TunnelState
from supervisor.core.views.history_json import DAY
from supervisor.core.views.status_json import iso
from supervisor.reports.history.recorder import History

INTERVAL = 5.0  # seconds between two samples
SAMPLES = 60  # of each tunnel
PARTS = 96  # of the last day: a quarter of an hour each
_FRESH = 60.0  # seconds for which a tunnel's last day is not looked up again while nothing happens to it


@dataclass(slots=True)
class _Measures:
    """The latest samples of one tunnel."""

    rtts: deque[float | None] = field(
        default_factory=lambda: deque(maxlen=SAMPLES)
    )  # seconds; None: no answer
    session: int = 0
    at: float = 0.0  # monotonic seconds of the last count
    count: tuple[int, int] | None = None  # bytes received and sent
    rates: tuple[float, float] | None = None  # bytes per second between the last two

    def take(self, state: TunnelState, count: tuple[int, int] | None, now: float) -> None:
        """One sample."""
        up = state.phase is Phase.UP
        if self.rtts or (up and state.liveness.last_rtt is not None):
            self.rtts.append(
                round(state.liveness.last_rtt, 6)
                if up and state.liveness.misses == 0 and state.liveness.last_rtt is not None
                else None
            )
        before, same = self.count, self.session == state.session.number
        self.rates = (
            _rates(before, count, now - self.at)
            if same and before is not None and count is not None
            else None
        )
        self.session, self.at, self.count = state.session.number, now, count

    def told(self) -> dict[str, Any]:
        """For the document."""
        received, sent = self.rates or (None, None)
        return {
            "seconds": INTERVAL * SAMPLES,
            "rtts": list(self.rtts),
            "received_per_second": received,
            "sent_per_second": sent,
        }


@dataclass(frozen=True, slots=True)
class _Day:
    """What is told of a tunnel's last day, and in which state of the tunnel it was looked up."""

    since: float
    phase: Phase
    health: Health
    at: float
    told: dict[str, Any]

    def holds(self, state: TunnelState, now: float) -> bool:
        """Is it still good enough."""
        return (self.since, self.phase, self.health) == (
            state.since,
            state.phase,
            state.health,
        ) and now - self.at < _FRESH


@dataclass(frozen=True, slots=True)
class BoardSources:
    """Where a board finds what the status does not say."""

    snapshot: Callable[[], Snapshot]
    deaths: Callable[[], Mapping[str, Sequence[Failure]]]
    traffic: Callable[
        [str, Session], tuple[int, int] | None
    ]  # bytes of a session; called in a worker thread, one at a time
    history: History
    wall_offset: float  # what turns monotonic seconds into Unix time
    mask: Callable[[str], str] = str  # a text without secrets


class Board:
    """Collects what the page shows (`about`), as an Alerter and as a task (`run`)."""

    def __init__(self, sources: BoardSources) -> None:
        self._from = sources
        self._measures: dict[str, _Measures] = {}
        self._open: dict[str, Alert] = {}  # incidents
        self._known: dict[str, _Day] = {}
        self._news = asyncio.Event()

    def set(self, alerts: Mapping[str, Alert]) -> None:
        """Remember which incidents are open: those that fire, and those that did and are on hold.
        Something has changed.
        """
        before = self._open
        self._open = {
            name: before.get(name, alert)
            if alert.verdict is Verdict.HOLD
            else _since(alert, before.get(name))
            for name, alert in alerts.items()
            if alert.verdict is Verdict.FIRING or (alert.verdict is Verdict.HOLD and name in before)
        }
        self._announce()

    async def changed(self) -> None:
        """Return as soon as the board may look different."""
        await self._news.wait()

    async def run(self, interval: float = INTERVAL) -> None:
        """Take a sample every so many seconds, for ever."""
        while True:
            snapshot = self._from.snapshot()
            counts = await asyncio.to_thread(self._count, snapshot)
            now = time.monotonic()
            known, self._measures = self._measures, {}
            for name, (_, state) in snapshot.tunnels.items():
                self._measures[name] = known.get(name) or _Measures()
                self._measures[name].take(state, counts.get(name), now)
            self._announce()
            await asyncio.sleep(interval)

    async def about(self, status: dict[str, Any], snapshot: Snapshot) -> dict[str, Any]:
        """The status document, complemented. The one that is given is changed."""
        measures = {name: each.told() for name, each in self._measures.items()}
        deaths, incidents = self._from.deaths(), list(self._open.values())
        return await asyncio.to_thread(self._complemented, status, snapshot, measures, deaths, incidents)

    def _complemented(
        self,
        status: dict[str, Any],
        snapshot: Snapshot,
        measures: Mapping[str, dict[str, Any]],
        deaths: Mapping[str, Sequence[Failure]],
        incidents: Sequence[Alert],
    ) -> dict[str, Any]:
        """For a worker thread: with a thousand tunnels it takes its time."""
        days = self._days(snapshot)
        for entry in status["tunnels"]:
            name = entry["name"]
            entry["last_error"] = self._masked(entry["last_error"])
            entry["availability"], entry["measures"] = (
                days[name].told,
                measures.get(name) or _Measures().told(),
            )
            entry["deaths"] = [self._death(failure) for failure in reversed(deaths.get(name, ()))]
        return status | {"now": time.time(), "incidents": [self._incident(alert) for alert in incidents]}

    def _announce(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _count(self, snapshot: Snapshot) -> dict[str, tuple[int, int] | None]:
        return {
            name: self._from.traffic(name, state.session)
            for name, (_, state) in snapshot.tunnels.items()
            if state.running
        }

    def _days(self, snapshot: Snapshot) -> dict[str, _Day]:
        """Availability over the last day."""
        known = self._known
        self._known = found = {
            name: day
            if (day := known.get(name)) is not None and day.holds(state, snapshot.now)
            else self._day(name, state, snapshot.now)
            for name, (_, state) in snapshot.tunnels.items()
        }
        return found

    def _day(self, name: str, state: TunnelState, now: float) -> _Day:
        ratio = self._from.history.ratios((name,)).get((name, "24h"))
        slots = self._from.history.slots(name, DAY, PARTS)
        return _Day(
            state.since,
            state.phase,
            state.health,
            now,
            {"ratio": _rounded(ratio), "last_day": [s and s.value for s in slots]},
        )

    def _death(self, it: Failure) -> dict[str, str]:
        return {
            "at": iso(self._from.wall_offset + it.at),
            "reason": it.reason.value,
            "text": self._from.mask(it.text),
        }

    def _incident(self, it: Alert) -> dict[str, str]:
        summary, since = self._from.mask(it.summary), iso(self._from.wall_offset + it.since)
        return {"name": it.tunnel, "severity": it.severity, "summary": summary, "since": since}

    def _masked(self, text: str | None) -> str | None:
        return None if text is None else self._from.mask(text)


def _since(alert: Alert, before: Alert | None) -> Alert:
    """An open incident began when it was first told of."""
    return alert if before is None else replace(alert, since=before.since)


def _rates(before: tuple[int, int], after: tuple[int, int], seconds: float) -> tuple[float, float] | None:
    """Bytes per second; None: the device was made anew in between."""
    if after[0] < before[0] or after[1] < before[1] or seconds <= 0:
        return None
    return round((after[0] - before[0]) / seconds), round((after[1] - before[1]) / seconds)


def _rounded(ratio: float | None) -> float | None:
    """To a hundredth of a percent, never up to 1."""
    return None if ratio is None else ratio if ratio >= 1.0 else int(ratio * 10_000) / 10_000
