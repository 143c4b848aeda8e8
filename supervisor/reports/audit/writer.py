"""The audit on disk: takes what is told of flows and of control actions, and writes it as JSON lines, from
a thread of its own.

Whoever tells never waits. What the disk does not take waits for it, up to a bound; what finds no room is
counted and becomes a gap in the record. Lines leave our memory at once, and are forced to the disk every ten
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

from supervisor.core.network.plan import NetworkPlan, slot_of
from supervisor.core.views.audit_lines import (
    Accounts,
    Act,
    Entry,
    FlowRecord,
    Gap,
    Names,
    flow_line,
    line,
    lost_kind,
    unstamp,
)
from supervisor.reports.audit.rotation import RotatedFile

WAITING = 50_000  # entries that wait for the disk at most
SIGN_OF_LIFE = 10.0  # seconds: so long before a crash, or a power cut, the record may be unfinished
HEAL = 1.0  # seconds between attempts to use a disk that refused
_BATCH = 200  # entries in one writing, so that other threads have their turn

Changed = Callable[[], None]


class Trail:
    """Writes to a file from a thread of its own. `put` may be called in any thread."""

    def __init__(
        self,
        file: RotatedFile,
        plan: Callable[[], NetworkPlan],
        sessions: Mapping[tuple[str, int], str],
        changed: Changed = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`plan` and `sessions` (ids by tunnel and slot) are looked at in the thread; it says when
        `problem` has `changed`.
        """
        self._file, self._plan, self._sessions, self._changed, self._clock = (
            file,
            plan,
            sessions,
            changed,
            clock,
        )
        self._log = structlog.get_logger()
        self._names = Names(plan())
        self._work = threading.Condition()
        self._entries: deque[Entry] = deque()
        self._lost: Counter[str] = Counter()  # that found no room, since the last gap was written
        self._lost_at = (0.0, 0.0)  # the first and the last of them, Unix time
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self.accounts = Accounts()
        self.lost = 0  # entries that were lost, as far as they are counted, since the beginning
        self.problem: str | None = None  # why the file cannot be written

    @property
    def path(self) -> str:
        """Of the file."""
        return str(self._file.path)

    def start(self, details: Mapping[str, Any]) -> None:
        """Begin, with a line about that and about what was missed since the last one."""
        self._began: Act | None = Act("audit-start", self._clock(), details)
        self._thread.start()

    def put(self, entries: Iterable[Entry]) -> None:
        """Write these soon. Returns at once."""
        with self._work:
            for entry in entries:
                if len(self._entries) < WAITING:
                    self._entries.append(entry)
                else:
                    self._lose(entry)
            if self._entries and self.problem is None:
                self._work.notify()

    def close(self, details: Mapping[str, Any], timeout: float = 2.0) -> None:
        """Write what waits and a last line, for at most `timeout` seconds."""
        with self._work:
            self._entries.append(Act("audit-stop", self._clock(), details))
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
    # ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        synced = time.monotonic()
        closing = False
        while not closing:
            with self._work:
                self._work.wait_for(self._due, HEAL if self.problem else SIGN_OF_LIFE)
                closing = self._closing
            synced = self._round(synced, closing)
        self._file.close()

    def _due(self) -> bool:
        return self._closing or (self.problem is None and bool(self._entries or self._began))

    def _round(self, synced: float, closing: bool) -> float:
        """Write everything that waits. The monotonic moment at which the file was last complete on disk."""
        try:
            self._begin()
            self._file.append(b"")
            while True:
                alive = self._clock()
                batch = self._take()
                if not batch:
                    break
                self._file.append("".join(map(self._line, batch)).encode())
            if closing or time.monotonic() - synced >= SIGN_OF_LIFE:
                self._file.sync(alive)
                synced = time.monotonic()
        except OSError as error:
            self._say(str(error))
        else:
            self._say(None)
        return synced

    def _begin(self) -> None:
        """Once, as soon as the file can be used."""
        if self._began is None:
            return
        last = self._file.last()
        first: list[Entry] = [self._began] if last is None else [self._began, _pause(*last, self._began.at)]
        self._began = None
        with self._work:
            self._entries.extendleft(reversed(first))

    def _take(self) -> list[Entry]:
        """The next entries; when there are none left, what was lost."""
        with self._work:
            batch = [self._entries.popleft() for _ in range(min(_BATCH, len(self._entries)))]
            if self._lost and len(self._entries) < WAITING:
                batch.append(Gap("queue", *self._lost_at, dict(self._lost)))
                self._lost = Counter()
        return batch

    def _line(self, entry: Entry) -> str:
        if not isinstance(entry, FlowRecord):
            self.accounts.events[entry.event if isinstance(entry, Act) else "gap"] += 1
            self.lost += sum(entry.lost.values()) if isinstance(entry, Gap) else 0
            return line(entry)
        plan = self._plan()
        if plan is not self._names.plan:
            self._names = Names(plan, self._names)
        names = self._names
        tunnel = names.tunnel(entry.lane)
        self.accounts.add(entry, tunnel or "")
        self.accounts.events[entry.told.value] += 1
        session = None if tunnel is None else self._sessions.get((tunnel, slot_of(entry.lane)))
        return flow_line(entry, tunnel, session, names.segment(entry.source), names.real(entry))

    def _say(self, problem: str | None) -> None:
        if problem == self.problem:
            return
        if problem is not None:
            self._log.error("the audit cannot be written", path=self.path, error=problem)
        else:
            self._log.info("the audit is written again", path=self.path)
        self.problem = problem
        self._changed()


def _pause(last: bytes, complete: float | None, began: float) -> Gap:
    """What lies between an earlier record and this one: nothing was seen, by nobody."""
    try:
        said = json.loads(last)
        event, at = str(said["event"]), unstamp(said["time"])
    except (ValueError, KeyError, TypeError):
        event, at = "", complete or began
    since = at if event == "audit-stop" or complete is None else max(at, complete)
    return Gap("stopped" if event == "audit-stop" else "daemon-lost", min(since, began), began)
