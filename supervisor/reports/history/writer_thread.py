"""The thread behind the history: commits rows in batches, reads the bytes of running sessions, forgets
what is too old.

Whoever puts rows in never waits. Rows that the disk does not take wait for it, up to a bound; a file that
cannot be read any more is set aside by `reports.history.archive`, and a new one is begun.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from types import MappingProxyType

import structlog

from supervisor.core.network.traffic import Carried
from supervisor.core.state import Session
from supervisor.core.views.availability import KEPT
from supervisor.reports.history.archive import Archive, Now, Past, Statement, more, traffic
from supervisor.reports.metrics.counters import Rising
from supervisor.reports.sqlite import Damaged

WAITING = 20_000  # rows that wait for the disk at most


@dataclass(frozen=True, slots=True)
class WriterIntervals:
    """Seconds between regular duties."""

    seen: float = (
        10.0  # bytes are read and a sign of life is written: so much of a time before a crash may be unknown
    )
    heal: float = 10.0  # attempts to use a disk that refused
    prune: float = 3600.0


@dataclass(frozen=True, slots=True)
class Meters:
    """Who knows what went through a tunnel. Called in the history's thread."""

    link_bytes: Callable[[str], tuple[int, int] | None] = lambda device: (
        None
    )  # received and sent by a device so far
    carried: Callable[[str], Mapping[int, Carried]] = lambda tunnel: MappingProxyType({})  # by slot


class Counted:
    """The bytes of one session. A device that is made anew in it begins at 0 again."""

    def __init__(self, tunnel: str, session: Session) -> None:
        self.tunnel, self.number, self.slot, self.device = (
            tunnel,
            session.number,
            session.slot,
            session.device,
        )
        self._received, self._sent = Rising(resets=True), Rising(resets=True)
        self._told = (-1.0, -1.0)

    def read(self, meters: Meters) -> Statement | None:
        """The row with what the device says now; None: nothing new."""
        reading = None if self.device is None else meters.link_bytes(self.device)
        if reading is None:
            return None
        totals = (self._received.read(0, reading[0]), self._sent.read(0, reading[1]))
        if totals == self._told:
            return None
        self._told = totals
        return traffic(self.tunnel, self.number, *totals)


class Passed:
    """What passed through the lane of one slot, as its counters say. They outlive sessions: what is new
    belongs to the one that runs.
    """

    def __init__(self) -> None:
        self._flows, self._received, self._sent = (
            Rising(resets=True),
            Rising(resets=True),
            Rising(resets=True),
        )

    def more(self, tunnel: str, number: int, now: Carried) -> Statement | None:
        """The row with what is new; None: nothing."""
        flows = _grown(self._flows, now.flows)
        if now.received is None or now.sent is None:
            return more(tunnel, number, flows, None) if flows else None
        through_proxy = _grown(self._received, now.received), _grown(self._sent, now.sent)
        return more(tunnel, number, flows, through_proxy) if flows or any(through_proxy) else None


def _grown(counter: Rising, value: int) -> float:
    before = counter.value
    return counter.read(0, value) - before


class HistoryThread:
    """Writes to an archive from a thread of its own. Every method may be called in any thread."""

    def __init__(
        self,
        archive: Archive,
        now: Callable[[], Now],
        meters: Meters,
        pace: WriterIntervals = WriterIntervals(),
    ) -> None:
        self._archive, self._now, self._meters, self._pace = archive, now, meters, pace
        self._log = structlog.get_logger()
        self._changed = threading.Condition()
        self._rows: deque[Statement] = deque()
        self._put = self._settled = self._lost = (
            0  # rows ever put in; of these on disk or given up; of these lost
        )
        self._counted: dict[tuple[str, int], Counted] = {}  # running sessions
        self._urgent: list[Counted] = []  # whose device may be gone in a moment
        self._passed: dict[tuple[str, int], Passed] = {}  # by tunnel and slot
        self._closing = False
        self._began = False
        self._prune_at = self._read_at = float("-inf")  # monotonic seconds
        self._past: Future[Past] = Future()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self.usable = True  # the disk takes what is put in

    def start(self, adopted: Mapping[str, tuple[str, ...]]) -> Future[Past]:
        """Open the archive and begin. What earlier runs left, or nothing if that cannot be read; these
        tunnels go on (ids of sessions).
        """
        self._adopted = adopted
        self._thread.start()
        return self._past

    def close(self, timeout: float) -> None:
        """Write what waits, for at most `timeout` seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def put(self, rows: Iterable[Statement]) -> None:
        """Write these soon. Returns at once."""
        with self._changed:
            before = len(self._rows)
            self._rows.extend(rows)
            self._put += len(self._rows) - before
            self._drop_excess()
            self._changed.notify_all()

    def count(self, tunnel: str, session: Session) -> None:
        """Read what this session carries from now on."""
        with self._changed:
            known = self._counted.get((tunnel, session.number))
            if known is None or known.device != session.device:
                self._counted[tunnel, session.number] = Counted(tunnel, session)

    def count_now(self, tunnel: str, number: int, *, last: bool) -> None:
        """Read the bytes of this session at once: its device goes soon; `last`: and never again."""
        with self._changed:
            known = self._counted.pop((tunnel, number), None) if last else self._counted.get((tunnel, number))
            if known is not None:
                self._urgent.append(known)
                self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until what was put in by now is on disk; False: it is not, after that many seconds or
        because of a disk that refuses.
        """
        with self._changed:
            target = self._put
            self._changed.wait_for(lambda: self._settled >= target or not self.usable, timeout)
            return self._settled >= target

    # --- the thread
    # ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            closing = self._closing
            self._round()
            if closing:
                break
            with self._changed:
                self._changed.wait_for(self._due, self._pace.seen if self.usable else self._pace.heal)
        self._archive.close()

    def _due(self) -> bool:
        return self._closing or (self.usable and bool(self._rows or self._urgent))

    def _round(self) -> None:
        """Write everything that waits, in one transaction."""
        now = self._now()
        rows = [*self._take(), *self._bytes(now)]
        try:
            self._begin(now)
            self._archive.write(rows, now)
            rows = []
            self._prune(now)
        except (sqlite3.OperationalError, Damaged, OSError) as error:
            self._trouble(error)
        except sqlite3.Error as error:  # a row that no file can hold must not stand in the way of all others
            self._log.error("rows of the history were refused", rows=len(rows), error=str(error))
            rows = []
        else:
            self._recovered()
        finally:
            if not self._past.done():
                self._past.set_result(Past())
        self._settle(rows)

    def _begin(self, now: Now) -> None:
        """Once, as soon as the file can be used."""
        if self._began:
            return
        try:
            past = self._archive.begin(now, self._adopted, now.wall - KEPT)
        except Damaged as damage:
            self._report_damage(damage)
            past = self._archive.begin(now, {}, now.wall - KEPT)
        self._began = True
        if not self._past.done():
            self._past.set_result(past)

    def _prune(self, now: Now) -> None:
        if now.at >= self._prune_at:
            self._prune_at = now.at + self._pace.prune
            self._archive.prune(now)

    def _take(self) -> list[Statement]:
        with self._changed:
            rows = list(self._rows)
            self._rows.clear()
        return rows

    def _bytes(self, now: Now) -> list[Statement]:
        """What the devices say: all of them from time to time, some at once."""
        with self._changed:
            urgent, self._urgent = self._urgent, []
            regular = now.at >= self._read_at
            counted = [*urgent, *self._counted.values()] if regular else urgent
        if regular:
            self._read_at = now.at + self._pace.seen
        return [
            row for one in counted for row in (one.read(self._meters), self._more(one)) if row is not None
        ]

    def _more(self, one: Counted) -> Statement | None:
        now = self._meters.carried(one.tunnel).get(one.slot)
        return (
            None
            if now is None
            else self._passed.setdefault((one.tunnel, one.slot), Passed()).more(one.tunnel, one.number, now)
        )

    def _settle(self, refused: list[Statement]) -> None:
        """Rows that were refused wait on, before those that came meanwhile."""
        with self._changed:
            self._rows.extendleft(reversed(refused))
            self._drop_excess()
            self._settled = self._put - len(self._rows)
            self._changed.notify_all()

    def _drop_excess(self) -> None:
        while len(self._rows) > WAITING:
            self._rows.popleft()
            self._lost += 1

    def _trouble(self, error: Exception) -> None:
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

    def _recovered(self) -> None:
        if not self.usable:
            self._log.info("the history is written again", path=str(self._archive.path), lost=self._lost)
        self.usable = True
