"""The audit log on disk: writes flows and control actions as JSON lines, from a thread of its own.

`put` never blocks. Entries that the disk does not accept are kept in memory up to a bound; beyond that they
are counted and become a gap in the log. Lines are written at once, and forced to the disk (fsync) every ten
seconds, at each rotation and at the end.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog

from supervisor.core.identity.book import Holding
from supervisor.core.network.lanes import slot_of
from supervisor.core.network.plan import NetworkPlan
from supervisor.core.views.audit_lines import (
    Accounts,
    AuditEvent,
    Entry,
    FlowNames,
    FlowRecord,
    Gap,
    began_at,
    flow_line,
    line,
    lost_kind,
    parse_stamp,
    person_keys,
)
from supervisor.reports.audit.rotation import RotatedFile

MAX_WAITING_ENTRIES = 50_000  # in memory; beyond that new ones are lost
SYNC_SECONDS = 10.0  # between two fsyncs: a power cut loses as much
RETRY_SECONDS = 1.0  # between attempts to write to a disk that failed
_MAX_BATCH_ENTRIES = 200  # in one write, so that other threads get the GIL in between

Changed = Callable[[], None]
Person = Callable[[bytes, float], Holding | None]  # of an address (packed) at a moment (Unix time)


class AuditWriter:
    """Writes to a file from a thread of its own. `put` may be called in any thread."""

    def __init__(
        self,
        file: RotatedFile,
        plan: Callable[[], NetworkPlan],
        sessions: Mapping[tuple[str, int], str],
        changed: Changed = lambda: None,
        clock: Callable[[], float] = time.time,
        person: Person | None = None,
    ) -> None:
        """`plan` and `sessions` (ids by tunnel and slot) are read in the thread, which calls `changed` when
        `problem` has changed, and `person` for each flow; None: the lines name nobody.
        """
        self._person = person
        self._file, self._plan, self._sessions = file, plan, sessions
        self._changed, self._clock = changed, clock
        self._log = structlog.get_logger()
        self._names = FlowNames(plan())
        self._work = threading.Condition()
        self._entries: deque[Entry] = deque()
        self._lost: Counter[str] = Counter()  # entries by kind, since the last gap was written
        self._lost_at = (0.0, 0.0)  # Unix time of the first and the last of them
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self.accounts = Accounts()
        self.lost = 0  # entries in all gaps
        self.problem: str | None = None  # why the file cannot be written; None: it can

    @property
    def path(self) -> str:
        """The file's path."""
        return str(self._file.path)

    def start(self, details: Mapping[str, Any]) -> None:
        """Begin, with an entry for the start and a gap for the time since the last entry."""
        self._began: AuditEvent | None = AuditEvent("audit-start", self._clock(), details)
        self._thread.start()

    def put(self, entries: Iterable[Entry]) -> None:
        """Write these entries soon. Never blocks."""
        with self._work:
            for entry in entries:
                if len(self._entries) < MAX_WAITING_ENTRIES:
                    self._entries.append(entry)
                else:
                    self._lose(entry)
            if self._entries and self.problem is None:
                self._work.notify()

    def close(self, details: Mapping[str, Any], timeout: float = 2.0) -> None:
        """Write the waiting entries and one for the stop, within `timeout` seconds."""
        with self._work:
            self._entries.append(AuditEvent("audit-stop", self._clock(), details))
            self._closing = True
            self._work.notify()
        self._thread.join(timeout)

    def _lose(self, entry: Entry) -> None:
        now = self._clock()
        self._lost_at = (self._lost_at[0] if self._lost else now, now)
        if isinstance(entry, Gap):
            self._lost.update(entry.lost)
        else:
            self._lost[lost_kind(entry)] += 1

    # --- the thread

    def _run(self) -> None:
        synced = time.monotonic()
        closing = False
        while not closing:
            with self._work:
                self._work.wait_for(self._has_work, RETRY_SECONDS if self.problem else SYNC_SECONDS)
                closing = self._closing
            synced = self._round(synced, closing)
        self._file.close()

    def _has_work(self) -> bool:
        return self._closing or (self.problem is None and bool(self._entries or self._began))

    def _round(self, synced: float, closing: bool) -> float:
        """Write everything that waits. Gives the monotonic moment of the last sync."""
        try:
            self._begin()
            self._file.append(b"")
            while True:
                alive = self._clock()
                batch = self._take()
                if not batch:
                    break
                self._file.append("".join(map(self._line, batch)).encode())
            if closing or time.monotonic() - synced >= SYNC_SECONDS:
                self._file.sync(alive)
                synced = time.monotonic()
        except OSError as error:
            self._report(str(error))
        else:
            self._report(None)
        return synced

    def _begin(self) -> None:
        """Queue the first entries, once, as soon as the file can be read."""
        if self._began is None:
            return
        last = self._file.last()
        first: list[Entry] = (
            [self._began] if last is None else [self._began, _gap_since(*last, self._began.at)]
        )
        self._began = None
        with self._work:
            self._entries.extendleft(reversed(first))

    def _take(self) -> list[Entry]:
        """The next entries; after the last of them a gap for what was lost."""
        with self._work:
            batch = [self._entries.popleft() for _ in range(min(_MAX_BATCH_ENTRIES, len(self._entries)))]
            if self._lost and len(self._entries) < MAX_WAITING_ENTRIES:
                batch.append(Gap("queue", *self._lost_at, dict(self._lost)))
                self._lost = Counter()
        return batch

    def _line(self, entry: Entry) -> str:
        if not isinstance(entry, FlowRecord):
            self.accounts.events[entry.event if isinstance(entry, AuditEvent) else "gap"] += 1
            self.lost += sum(entry.lost.values()) if isinstance(entry, Gap) else 0
            return line(entry)
        plan = self._plan()
        if plan is not self._names.plan:
            self._names = FlowNames(plan, self._names)
        names = self._names
        tunnel = names.tunnel(entry.lane)
        who, keys = self._named(entry)
        self.accounts.add(entry, tunnel or "", who)
        self.accounts.events[entry.change.value] += 1
        session = None if tunnel is None else self._sessions.get((tunnel, slot_of(entry.lane)))
        return flow_line(entry, tunnel, session, names.segment(entry.source), names.real(entry), keys)

    def _named(self, flow: FlowRecord) -> tuple[str, str]:
        """The person behind a flow when it began ("": not known), and the keys of its line about that."""
        if self._person is None:
            return "", ""
        began = began_at(flow)
        holding = None if began is None else self._person(flow.source, began)
        return "" if holding is None else holding.person, person_keys(holding)

    def _report(self, problem: str | None) -> None:
        if problem == self.problem:
            return
        if problem is not None:
            self._log.error("the audit cannot be written", path=self.path, error=problem)
        else:
            self._log.info("the audit is written again", path=self.path)
        self.problem = problem
        self._changed()


def _gap_since(last: bytes, complete: float | None, began: float) -> Gap:
    """The gap between the last entry of an earlier run and the start of this one, in which nothing was
    recorded.
    """
    try:
        said = json.loads(last)
        event, at = str(said["event"]), parse_stamp(said["time"])
    except (ValueError, KeyError, TypeError):
        event, at = "", complete or began
    since = at if event == "audit-stop" or complete is None else max(at, complete)
    return Gap("stopped" if event == "audit-stop" else "daemon-lost", min(since, began), began)
