"""The thread behind the history: writes rows in batches, reads the traffic counters of running sessions,
deletes what is too old.

`put` never blocks. Rows that the disk does not accept are kept in memory up to a bound; a corrupt file is
renamed by `reports.history.archive`, and a new one is begun.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

import structlog

from supervisor.core.state import Session
from supervisor.core.views.availability import KEPT
from supervisor.reports.history.archive import Archive, ClockReading, EarlierRuns
from supervisor.reports.history.schema import Statement
from supervisor.reports.history.session_traffic import InterfaceCounter, SessionTraffic, TrafficSources
from supervisor.reports.sqlite import Damaged

MAX_WAITING_ROWS = 20_000  # in memory; beyond that the oldest are dropped


@dataclass(frozen=True, slots=True)
class WriterIntervals:
    """Seconds between the thread's regular duties."""

    heartbeat: float = 10.0  # counters are read and a sign of life is written: a crash loses as much
    retry: float = 10.0  # attempts to write to a disk that failed
    prune: float = 3600.0


class WriterThread:
    """Writes to an archive from a thread of its own. Every public method may be called in any thread."""

    def __init__(
        self,
        archive: Archive,
        now: Callable[[], ClockReading],
        sources: TrafficSources,
        intervals: WriterIntervals = WriterIntervals(),
    ) -> None:
        self._archive, self._now, self._intervals = archive, now, intervals
        self._log = structlog.get_logger()
        self._changed = threading.Condition()
        self._rows: deque[Statement] = deque()
        self._put_count = 0  # rows ever put in
        self._settled_count = 0  # of these on disk or dropped
        self._lost_count = 0  # of these dropped
        self._sources, self._traffic = sources, SessionTraffic(sources)
        self._measured: dict[tuple[str, int], InterfaceCounter] = {}  # running sessions, by tunnel and number
        self._urgent: list[InterfaceCounter] = []  # whose interface may be gone in a moment
        self._closing = False
        self._begun = False
        self._prune_at = self._measure_at = float("-inf")  # monotonic seconds
        self._earlier: Future[EarlierRuns] = Future()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self.usable = True  # the last write succeeded

    def start(self, adopted: Mapping[str, tuple[str, ...]]) -> Future[EarlierRuns]:
        """Open the archive and begin. The future gives what earlier runs left, or nothing if that cannot be
        read. `adopted` are the sessions (ids by tunnel) with which this run goes on.
        """
        self._adopted = adopted
        self._thread.start()
        return self._earlier

    @property
    def waiting_rows(self) -> int:
        """Rows that are not on disk yet."""
        return len(self._rows)

    def close(self, timeout: float) -> None:
        """Write the waiting rows and stop, within `timeout` seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def put(self, rows: Iterable[Statement]) -> None:
        """Write these rows soon. Never blocks."""
        with self._changed:
            before = len(self._rows)
            self._rows.extend(rows)
            self._put_count += len(self._rows) - before
            self._drop_excess()
            self._changed.notify_all()

    def measure(self, tunnel: str, session: Session) -> None:
        """Read the traffic counters of this session from now on."""
        with self._changed:
            known = self._measured.get((tunnel, session.number))
            if known is None or known.device != session.device:
                self._measured[tunnel, session.number] = InterfaceCounter(tunnel, session)

    def measure_now(self, tunnel: str, number: int, *, last: bool) -> None:
        """Read the traffic counters of this session at once, because its interface is about to go; `last`:
        and never again.
        """
        key = tunnel, number
        with self._changed:
            known = self._measured.pop(key, None) if last else self._measured.get(key)
            if known is not None:
                if not last:
                    known.keep(self._sources)
                self._urgent.append(known)
                self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until all rows put in by now are on disk. False: `timeout` seconds are over, or the disk
        fails.
        """
        with self._changed:
            target = self._put_count
            self._changed.wait_for(lambda: self._settled_count >= target or not self.usable, timeout)
            return self._settled_count >= target

    # --- the thread

    def _run(self) -> None:
        while True:
            closing = self._closing
            self._round()
            if closing:
                break
            with self._changed:
                self._changed.wait_for(self._has_work, self._pause)
        self._archive.close()

    @property
    def _pause(self) -> float:
        return self._intervals.heartbeat if self.usable else self._intervals.retry

    def _has_work(self) -> bool:
        return self._closing or (self.usable and bool(self._rows or self._urgent))

    def _round(self) -> None:
        """Write everything that waits in one transaction."""
        now = self._now()
        rows = [*self._take_rows(), *self._traffic.rows(self._take_measured(now))]
        try:
            self._begin(now)
            self._archive.write(rows, now)
            rows = []
            self._prune(now)
        except (sqlite3.OperationalError, Damaged, OSError) as error:
            self._disk_failed(error)
        except sqlite3.Error as error:  # rows that SQLite rejects must not block the later ones
            self._log.error("rows of the history were refused", rows=len(rows), error=str(error))
            rows = []
        else:
            self._disk_works()
        finally:
            if not self._earlier.done():
                self._earlier.set_result(EarlierRuns())
        self._settle(rows)

    def _begin(self, now: ClockReading) -> None:
        """Begin the run in the file, once, as soon as the file can be used."""
        if self._begun:
            return
        try:
            earlier = self._archive.begin(now, self._adopted, now.wall - KEPT)
        except Damaged as damage:
            self._report_damage(damage)
            earlier = self._archive.begin(now, {}, now.wall - KEPT)
        self._begun = True
        if not self._earlier.done():
            self._earlier.set_result(earlier)

    def _prune(self, now: ClockReading) -> None:
        if now.at >= self._prune_at:
            self._prune_at = now.at + self._intervals.prune
            self._archive.prune(now)

    def _take_rows(self) -> list[Statement]:
        with self._changed:
            rows = list(self._rows)
            self._rows.clear()
        return rows

    def _take_measured(self, now: ClockReading) -> list[InterfaceCounter]:
        """The sessions to measure in this round: the urgent ones, and all of them once per heartbeat."""
        with self._changed:
            urgent, self._urgent = self._urgent, []
            if now.at < self._measure_at:
                return urgent
            self._measure_at = now.at + self._intervals.heartbeat
            return [*urgent, *self._measured.values()]

    def _settle(self, refused: list[Statement]) -> None:
        """Put rows that the disk refused back, before those that came meanwhile."""
        with self._changed:
            self._rows.extendleft(reversed(refused))
            self._drop_excess()
            self._settled_count = self._put_count - len(self._rows)
            self._changed.notify_all()

    def _drop_excess(self) -> None:
        while len(self._rows) > MAX_WAITING_ROWS:
            self._rows.popleft()
            self._lost_count += 1

    def _disk_failed(self, error: Exception) -> None:
        if isinstance(error, Damaged):
            self._report_damage(error)
        elif self.usable:
            self._log.error("the history cannot be written", path=str(self._archive.path), error=str(error))
        self.usable = False

    def _report_damage(self, damage: Damaged) -> None:
        self._log.error(
            "the history cannot be read any more, a new one is begun",
            path=str(self._archive.path),
            error=str(damage),
        )

    def _disk_works(self) -> None:
        if not self.usable:
            self._log.info(
                "the history is written again", path=str(self._archive.path), lost=self._lost_count
            )
        self.usable = True
