"""The history: sessions, transitions, incidents, and the availability of each tunnel.

    engine -> `History.record`, `History.set` -> timelines in memory (`core.views.availability`)
                                              -> rows -> `writer_thread` -> `archive` -> `history.db`

`facilitator history`, the metrics and `facilitator why` read it here.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from supervisor.core.alerting.verdict import Alert, Verdict
from supervisor.core.session.lifetime import ended_there
from supervisor.core.snapshot import Snapshot, Transition
from supervisor.core.state import Failure, Length, Phase, Session, SessionEnded, SessionState
from supervisor.core.views.availability import (
    ADOPTED,
    NOT_MONITORED,
    WINDOWS,
    Availability,
    Segment,
    Standing,
    StandingChange,
    Timeline,
    standing,
    worst,
)
from supervisor.core.views.history_json import HistoryRows
from supervisor.reports.history import queries, schema
from supervisor.reports.history.archive import Archive, ClockReading
from supervisor.reports.history.restore import failures, timelines
from supervisor.reports.history.schema import Statement
from supervisor.reports.history.session_traffic import TrafficSources
from supervisor.reports.history.standstill import SignsOfLife, Standstill, suspended
from supervisor.reports.history.writer_thread import WriterIntervals, WriterThread
from tunnels.settings import Tunnel

MAX_TEXT_CHARS = 500  # of an error or a client's line
NO_SESSIONS: Mapping[str, tuple[Session, ...]] = MappingProxyType({})
_FLUSH_SECONDS = 1.0  # how long a reader waits for the latest rows


@dataclass(frozen=True, slots=True)
class HistorySources:
    """What the history needs from the daemon; each callable must be thread-safe."""

    boot: str = ""  # id of the boot that monotonic seconds count from
    clock: Callable[[], float] = time.monotonic
    offset: Callable[[], float] = lambda: time.time() - time.monotonic()  # Unix time minus monotonic seconds
    suspended: Callable[[], float] = suspended  # seconds that the host was suspended since its boot
    traffic: TrafficSources = TrafficSources()
    mask: Callable[[str], str] = str  # replaces secrets in a text

    def now(self) -> ClockReading:
        """This moment on both clocks."""
        return ClockReading(self.clock(), self.offset(), self.boot)


class History:
    """A `Recorder` and an `Alerter` (`supervisor.outputs`). `record` and `set` are for the engine's thread;
    every other method may be called in any thread.
    """

    def __init__(
        self, archive: Archive, sources: HistorySources, intervals: WriterIntervals | None = None
    ) -> None:
        self._archive, self._sources = archive, sources
        self._writer = WriterThread(archive, sources.now, sources.traffic, intervals or WriterIntervals())
        self._signs = SignsOfLife(sources.clock, sources.suspended)
        self._lock = threading.Lock()
        self._timelines: dict[str, Timeline] = {}
        self._sessions: dict[tuple[str, int], Session] = {}  # running, by tunnel and number
        self._open_incidents: frozenset[str] = frozenset()  # names
        self._latest: dict[str, Transition] = {}  # by tunnel

    def start(
        self, adopted: Mapping[str, tuple[Session, ...]] = NO_SESSIONS, max_failures: int = 0
    ) -> dict[str, list[Failure]]:
        """Read what earlier runs of the daemon left, and begin to write. Blocks: not for the event loop's
        thread.

        `adopted` are the sessions, by tunnel, with which this run goes on. Gives the last failures of each
        tunnel, at most `max_failures`. A file that cannot be used is only logged.
        """
        earlier = self._writer.start(
            {tunnel: tuple(session.id for session in sessions) for tunnel, sessions in adopted.items()}
        ).result()
        self._sessions = {
            (tunnel, session.number): session for tunnel, sessions in adopted.items() for session in sessions
        }
        for (tunnel, _), session in self._sessions.items():
            self._writer.measure(tunnel, session)
        now = self._sources.now()
        self._timelines, self._open_incidents = timelines(earlier, now), earlier.open_incidents
        return failures(earlier, now, max_failures) if max_failures else {}

    def close(self, timeout: float = 2.0) -> None:
        """Write the waiting rows and stop, within `timeout` seconds."""
        self._writer.close(timeout)

    # --- what goes in

    def alive(self) -> None:
        """A sign of life of the event loop, about once a second: without one, tunnels were not monitored."""
        if (still := self._signs.alive()) is not None:
            self._stood_still(still)

    def record(self, transition: Transition, snapshot: Snapshot) -> None:
        """Record a transition, and what it says about the tunnel's session."""
        if (still := self._signs.standstill()) is not None:
            self._stood_still(still)
        self._latest[transition.tunnel] = transition
        tunnel, state = snapshot.tunnels[transition.tunnel]
        reason, ended = transition.reason.value, transition.ended
        running = next((each for each in state.sessions if each.session.number == transition.session), None)
        change = StandingChange(transition.at, standing(tunnel, state), reason, state.phase is Phase.FAILED)
        with self._lock:
            timeline = self._timelines.setdefault(tunnel.name, Timeline())
            timeline.add(change)
            if ended is not None:
                timeline.died(transition.at, ended.reason.value)
        rows = [self._transition_row(transition, change)]
        if ended is not None:
            rows.append(self._ended_row(tunnel, ended))
        if running is not None:
            rows.append(self._running_row(tunnel, running))
        self._writer.put(rows)

    def set(self, alerts: Mapping[str, Alert]) -> None:
        """Record which incidents are open: those that are FIRING, and those on HOLD that were open before."""
        verdicts = {name: alert.verdict for name, alert in alerts.items()}
        before = self._open_incidents
        after = frozenset(
            n for n, v in verdicts.items() if v is Verdict.FIRING or (v is Verdict.HOLD and n in before)
        )
        if after == before:
            return
        self._open_incidents, wall = after, self._sources.now().wall
        opened = (alerts[name] for name in sorted(after - before))
        self._writer.put(
            [
                *(schema.incident_closed(name, wall) for name in sorted(before - after)),
                *(
                    schema.incident_opened(a.tunnel, a.severity, self._printable(a.summary), wall)
                    for a in opened
                ),
            ]
        )

    # --- what comes out

    @property
    def usable(self) -> bool:
        """True if the last write to the disk succeeded."""
        return self._writer.usable

    @property
    def waiting_rows(self) -> int:
        """Rows that are not on disk yet."""
        return self._writer.waiting_rows

    def flush(self, timeout: float = _FLUSH_SECONDS) -> bool:
        """Wait until everything recorded by now is on disk. False: `timeout` seconds are over, or the disk
        fails.
        """
        return self._writer.flush(timeout)

    def measure_now(self, tunnel: str, number: int) -> None:
        """Read the traffic counters of a running session at once instead of at the next heartbeat."""
        self._writer.measure_now(tunnel, number, last=False)

    def availability(self, tunnel: str) -> dict[str, Availability]:
        """The tunnel's availability over each of `WINDOWS`, up to now; empty: the tunnel is not known."""
        now = self._sources.clock()
        with self._lock:
            timeline = self._timelines.get(tunnel)
            if timeline is None:
                return {}
            return {name: timeline.over(now - length, now) for name, length in WINDOWS.items()}

    def segments(self, tunnel: str, seconds: float) -> list[Segment]:
        """The tunnel's standing over the last `seconds`: contiguous segments in Unix time."""
        now = self._sources.now()
        with self._lock:
            timeline = self._timelines.get(tunnel, Timeline())
            found = timeline.segments(now.at - seconds, now.at)
        return [(start + now.offset, end + now.offset, what) for start, end, what in found]

    def worst_by_part(self, tunnel: str, seconds: float, count: int) -> list[Standing | None]:
        """The worst standing in each of `count` equal parts of the last `seconds`."""
        end = self._sources.now().wall
        return worst(self.segments(tunnel, seconds), end - seconds, end, count)

    @property
    def tunnels(self) -> list[str]:
        """The names of all tunnels that the history knows, configured or not."""
        with self._lock:
            return sorted(self._timelines)

    @property
    def offset(self) -> float:
        """Unix time minus monotonic seconds, for the moments of `availability`."""
        return self._sources.offset()

    def ratios(self, tunnels: Iterable[str]) -> dict[tuple[str, str], float]:
        """The availability ratio by tunnel and window; unknown ones are left out."""
        found: dict[tuple[str, str], float] = {}
        for tunnel in tunnels:
            now = self._sources.clock()
            with self._lock:  # per tunnel, so that the engine never waits for all of them
                timeline = self._timelines.get(tunnel)
                ratios = () if timeline is None else timeline.ratios(WINDOWS.values(), now)
            found |= {
                (tunnel, name): ratio
                for name, ratio in zip(WINDOWS, ratios, strict=False)
                if ratio is not None
            }
        return found

    def read(self, tunnel: str | None, limit: int) -> HistoryRows:
        """The last `limit` sessions, transitions and incidents, of a tunnel or of all, moments as Unix time;
        and a `problem` if some are missing. Blocks: not for the event loop's thread.
        """
        path, problem = self._archive.path, None
        if not self.flush():
            problem = f"{path} cannot be written, the latest is missing here"
        try:
            rows = queries.latest(path, tunnel, limit)
        except sqlite3.Error as error:
            return HistoryRows(problem=f"{path} cannot be read: {error}")
        return HistoryRows(rows["sessions"], rows["transitions"], rows["incidents"], problem)

    def session_lengths(self, count: int) -> dict[str, tuple[Length, ...]]:
        """How long each tunnel's last `count` sessions were connected, oldest first. Blocks: not for the
        event loop's thread.
        """
        found: dict[str, list[Length]] = {}
        with contextlib.suppress(sqlite3.Error):
            for tunnel, seconds, reason, health in queries.session_lengths(self._archive.path, count):
                found.setdefault(tunnel, []).append(Length(seconds, ended_there(reason, health)))
        return {tunnel: tuple(each) for tunnel, each in found.items()}

    # --- rows

    def _transition_row(self, it: Transition, change: StandingChange) -> Statement:
        return schema.transition(
            at=it.at,
            wall=it.at + self._sources.offset(),
            tunnel=it.tunnel,
            session=it.session,
            before=it.before.value,
            after=it.after.value,
            health=it.health.value,
            standing=change.standing.value,
            reason=change.reason,
            text=self._printable(it.text),
            lasted=it.lasted,
            rung=None if it.rung is None else it.rung.value,
        )

    def _stood_still(self, still: Standstill) -> None:
        """What was up, or down, before the standstill was not monitored in it."""
        text = f"the whole host stood still for {still.seconds:.0f} s"
        for name, timeline in list(self._timelines.items()):
            latest = self._latest.get(name)
            with self._lock:
                before = timeline.standing
                if before is None or before in (Standing.STOPPED, Standing.UNWATCHED):
                    continue
                changes = (
                    StandingChange(still.began, Standing.UNWATCHED, NOT_MONITORED),
                    StandingChange(still.ended, before, ADOPTED if latest is None else latest.reason.value),
                )
                for change in changes:
                    timeline.add(change)
            if latest is not None:
                told = replace(latest, before=latest.after, text=text, ended=None, rung=None)
                self._writer.put(
                    [self._transition_row(replace(told, at=change.at), change) for change in changes]
                )

    def _running_row(self, tunnel: Tunnel, state: SessionState) -> Statement:
        session = self._sessions[tunnel.name, state.session.number] = state.session
        self._writer.measure(tunnel.name, session)
        if state.phase is Phase.STOPPING:  # the interface goes with its client
            self._writer.measure_now(tunnel.name, session.number, last=False)
        return self._session_row(tunnel, session, ended=None, lasted=None, reason=None, text=None)

    def _ended_row(self, tunnel: Tunnel, ended: SessionEnded) -> Statement:
        """The row of a session that is over."""
        session = ended.session
        self._sessions.pop((tunnel.name, session.number), None)
        self._writer.measure_now(tunnel.name, session.number, last=True)
        return self._session_row(
            tunnel,
            session,
            ended=ended.at + self._sources.offset(),
            lasted=ended.at - session.started,
            reason=ended.reason.value,
            text=self._printable("" if ended.failure is None else ended.failure.text),
        )

    def _session_row(self, tunnel: Tunnel, it: Session, **end: Any) -> Statement:
        offset = self._sources.offset()
        return schema.session(
            tunnel=tunnel.name,
            number=it.number,
            id=it.id,
            kind=tunnel.kind,
            device=it.device,
            port=it.port,
            address=it.address or it.address6,
            peer=it.peer,
            started=it.started + offset,
            connected=None if it.connected is None else it.connected + offset,
            **end,
        )

    def _printable(self, text: str) -> str:
        """The text, shortened, secrets masked (defence in depth, see `reports.log.redact`), safe for a
        terminal.
        """
        masked = self._sources.mask(text)[:MAX_TEXT_CHARS]
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in masked)
