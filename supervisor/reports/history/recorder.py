"""The one record of what happened: sessions, transitions, incidents, and how available each tunnel was.

`record` and `set` come from the engine. What is asked for at any time stays in memory
(`core.views.availability`); rows go to `reports.history.writer_thread`, whose thread writes them to
`history.db` (`reports.history.archive`). `facilitator history`, the metrics and `why` read the same record.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from supervisor.core.alerting.verdict import Alert, Verdict
from supervisor.core.session.lifetime import ended_there
from supervisor.core.state import (
    Failure,
    Length,
    Phase,
    Session,
    SessionEnded,
    SessionState,
    Snapshot,
    Transition,
)
from supervisor.core.views.availability import (
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
from supervisor.reports.history import archive
from supervisor.reports.history.archive import Archive, Now, Statement
from supervisor.reports.history.restore import failures, timelines
from supervisor.reports.history.writer_thread import HistoryThread, Meters, WriterIntervals
from tunnels.settings import Tunnel

TEXT = 500  # characters of a text that are kept
NOBODY: Mapping[str, tuple[Session, ...]] = MappingProxyType({})
_FLUSH_WITHIN = 1.0  # seconds that a reader waits for the latest rows


@dataclass(frozen=True, slots=True)
class HistorySources:
    """What the record asks of the rest; every callable must be safe in another thread."""

    boot: str = ""  # names what monotonic time counts from
    clock: Callable[[], float] = time.monotonic
    offset: Callable[[], float] = lambda: (
        time.time() - time.monotonic()
    )  # what turns monotonic seconds into Unix time
    meters: Meters = Meters()
    mask: Callable[[str], str] = str  # a text without secrets

    def now(self) -> Now:
        """This moment."""
        return Now(self.clock(), self.offset(), self.boot)


class History:
    """Recorder and Alerter (`supervisor.engine`) that remember. `record` and `set` belong to the engine's
    thread, questions to any.
    """

    def __init__(self, archive: Archive, around: HistorySources, pace: WriterIntervals | None = None) -> None:
        self._archive, self._around = archive, around
        self._scribe = HistoryThread(archive, around.now, around.meters, pace or WriterIntervals())
        self._lock = threading.Lock()
        self._timelines: dict[str, Timeline] = {}
        self._sessions: dict[tuple[str, int], Session] = {}  # running ones, as they were last seen
        self._incidents: frozenset[str] = frozenset()  # open ones

    def start(
        self, adopted: Mapping[str, tuple[Session, ...]] = NOBODY, kept: int = 0
    ) -> dict[str, list[Failure]]:
        """Read what earlier runs left, and begin to write; not for the event loop's thread. `adopted`:
        tunnels that go on as they were.

        Gives the last failures of each tunnel, at most `kept`. A file that cannot be used is worth a line in
        the log, and nothing more.
        """
        past = self._scribe.start(
            {tunnel: tuple(session.id for session in sessions) for tunnel, sessions in adopted.items()}
        ).result()
        self._sessions = {
            (tunnel, session.number): session for tunnel, sessions in adopted.items() for session in sessions
        }
        for (tunnel, _), session in self._sessions.items():
            self._scribe.count(tunnel, session)
        now = self._around.now()
        self._timelines, self._incidents = timelines(past, now), past.incidents
        return failures(past, now, kept) if kept else {}

    def close(self, timeout: float = 2.0) -> None:
        """Write what waits, for at most `timeout` seconds."""
        self._scribe.close(timeout)

    # --- what goes in
    # ----------------------------------------------------------------------------------------------------

    def record(self, transition: Transition, snapshot: Snapshot) -> None:
        """Remember a transition, and what it says about the tunnel's session."""
        tunnel, state = snapshot.tunnels[transition.tunnel]
        reason, ended = transition.reason.value, transition.ended
        running = next((each for each in state.sessions if each.session.number == transition.session), None)
        mark = StandingChange(transition.at, standing(tunnel, state), reason, state.phase is Phase.FAILED)
        with self._lock:
            timeline = self._timelines.setdefault(tunnel.name, Timeline())
            timeline.add(mark)
            if ended is not None:
                timeline.died(transition.at, ended.reason.value)
        rows = [self._transition(transition, mark)]
        if ended is not None:
            rows.append(self._ended(tunnel, ended))
        if running is not None:
            rows.append(self._goes_on(tunnel, running))
        self._scribe.put(rows)

    def set(self, alerts: Mapping[str, Alert]) -> None:
        """Remember which incidents are open: those that fire, and those that did and are on hold."""
        verdicts = {name: alert.verdict for name, alert in alerts.items()}
        before = self._incidents
        after = frozenset(
            n for n, v in verdicts.items() if v is Verdict.FIRING or (v is Verdict.HOLD and n in before)
        )
        if after == before:
            return
        self._incidents, wall = after, self._around.now().wall
        opened = (alerts[name] for name in sorted(after - before))
        self._scribe.put(
            [
                *(archive.incident_closed(name, wall) for name in sorted(before - after)),
                *(
                    archive.incident_opened(a.tunnel, a.severity, self._clean(a.summary), wall)
                    for a in opened
                ),
            ]
        )

    # --- what comes out
    # --------------------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """The disk takes what is recorded."""
        return self._scribe.usable

    def availability(self, tunnel: str) -> dict[str, Availability]:
        """What the tunnel was over each of `WINDOWS` that ends now; empty: nothing is known of it."""
        now = self._around.clock()
        with self._lock:
            timeline = self._timelines.get(tunnel)
            return (
                {}
                if timeline is None
                else {name: timeline.over(now - length, now) for name, length in WINDOWS.items()}
            )

    def segments(self, tunnel: str, seconds: float) -> list[Segment]:
        """What the tunnel was when, in so many seconds until now: stretches in Unix time, without a gap."""
        now = self._around.now()
        with self._lock:
            timeline = self._timelines.get(tunnel, Timeline())
            found = timeline.segments(now.at - seconds, now.at)
        return [(start + now.offset, end + now.offset, what) for start, end, what in found]

    def slots(self, tunnel: str, seconds: float, count: int) -> list[Standing | None]:
        """The same in so many equal parts, each with the worst that was in it."""
        end = self._around.now().wall
        return worst(self.segments(tunnel, seconds), end - seconds, end, count)

    @property
    def tunnels(self) -> list[str]:
        """Everything that is known by name, be it configured or not."""
        with self._lock:
            return sorted(self._timelines)

    @property
    def offset(self) -> float:
        """What turns the moments of `availability` into Unix time."""
        return self._around.offset()

    def ratios(self, tunnels: Iterable[str]) -> dict[tuple[str, str], float]:
        """The available part of each window, by tunnel and window; what is not known is left out."""
        found: dict[tuple[str, str], float] = {}
        for tunnel in tunnels:
            now = self._around.clock()
            with self._lock:  # for one tunnel at a time: the engine must not wait for all of them
                timeline = self._timelines.get(tunnel)
                ratios = () if timeline is None else timeline.ratios(WINDOWS.values(), now)
            found |= {
                (tunnel, name): ratio
                for name, ratio in zip(WINDOWS, ratios, strict=False)
                if ratio is not None
            }
        return found

    def read(self, tunnel: str | None, limit: int) -> HistoryRows:
        """The last `limit` sessions, transitions and incidents, of a tunnel or of all, and a `problem` if
        they are not all there.

        Not for the event loop's thread. Moments are Unix time.
        """
        flushed = self._scribe.flush(_FLUSH_WITHIN)
        try:
            rows = archive.read(self._archive.path, tunnel, limit)
        except sqlite3.Error as error:
            return HistoryRows(problem=f"{self._archive.path} cannot be read: {error}")
        problem = None if flushed else f"{self._archive.path} cannot be written, the latest is missing here"
        return HistoryRows(rows["sessions"], rows["transitions"], rows["incidents"], problem)

    def lengths(self, count: int) -> dict[str, tuple[Length, ...]]:
        """How long each tunnel's last `count` sessions were connected, oldest first; not for the event
        loop's thread.
        """
        found: dict[str, list[Length]] = {}
        with contextlib.suppress(sqlite3.Error):
            for tunnel, seconds, reason in archive.lengths(self._archive.path, count):
                found.setdefault(tunnel, []).append(Length(seconds, ended_there(reason)))
        return {tunnel: tuple(each) for tunnel, each in found.items()}

    # --- rows
    # ------------------------------------------------------------------------------------------------------

    def _transition(self, it: Transition, mark: StandingChange) -> Statement:
        return archive.transition(
            at=it.at,
            wall=it.at + self._around.offset(),
            tunnel=it.tunnel,
            session=it.session,
            before=it.before.value,
            after=it.after.value,
            health=it.health.value,
            standing=mark.standing.value,
            reason=mark.reason,
            text=self._clean(it.text),
            lasted=it.lasted,
            rung=None if it.rung is None else it.rung.value,
        )

    def _goes_on(self, tunnel: Tunnel, state: SessionState) -> Statement:
        session = self._sessions[tunnel.name, state.session.number] = state.session
        self._scribe.count(tunnel.name, session)
        if state.phase is Phase.STOPPING:  # the device goes with its client
            self._scribe.count_now(tunnel.name, session.number, last=False)
        return self._session(tunnel, session, ended=None, lasted=None, reason=None, text=None)

    def _ended(self, tunnel: Tunnel, ended: SessionEnded) -> Statement:
        session = ended.session
        self._sessions.pop((tunnel.name, session.number), None)
        self._scribe.count_now(tunnel.name, session.number, last=True)
        return self._session(
            tunnel,
            session,
            ended=ended.at + self._around.offset(),
            lasted=ended.at - session.started,
            reason=ended.reason.value,
            text=self._clean("" if ended.failure is None else ended.failure.text),
        )

    def _session(self, tunnel: Tunnel, it: Session, **end: Any) -> Statement:
        offset = self._around.offset()
        return archive.session(
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

    def _clean(self, text: str) -> str:
        """A text that may stand in a file and on a terminal."""
        masked = self._around.mask(text)[:TEXT]
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in masked)
