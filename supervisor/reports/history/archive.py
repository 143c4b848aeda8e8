"""History on disk: `history.db` in `state_dir`, a SQLite file of the daemon's runs, transitions, sessions and
incidents (`reports.history.schema`).

One thread writes (`reports.history.writer_thread`); `reports.history.queries` reads beside it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from supervisor.core.views.availability import ADOPTED, LOST
from supervisor.reports.history.schema import MIGRATIONS, Statement
from supervisor.reports.sqlite import Damaged, broken, connect, migrate, set_aside

FILE = "history.db"
MAX_AGE_SECONDS = 400 * 86400.0  # older rows are deleted
MAX_BYTES = 64 << 20  # in use in the file; beyond it the oldest rows are deleted
_MAX_WAL_BYTES = 4 << 20  # that the write-ahead log keeps on disk (PRAGMA journal_size_limit)

_CLOSE_LOST_SESSIONS = """
UPDATE session SET reason=:lost, ended=max(started, (SELECT seen + offset FROM run WHERE run.id = session.run))
WHERE ended IS NULL AND run <> :run"""
_REPEAT_LAST_TRANSITION = """
INSERT INTO transition (run, at, wall, tunnel, session, before, after, health, standing, reason, text, lasted)
SELECT :run, :at, :wall, tunnel, session, after, after, health, standing, :reason, '', 0.0 FROM transition WHERE tunnel = :tunnel
ORDER BY id DESC LIMIT 1"""
_EARLIER_TRANSITIONS = """
SELECT run, at, tunnel, standing, after, reason FROM transition
WHERE wall >= :since OR id IN (SELECT max(id) FROM transition WHERE wall < :since GROUP BY tunnel) ORDER BY tunnel, id"""

# The last transition of each tunnel is kept: it alone tells what the tunnel has been since.
_DELETE_OLD = (
    "DELETE FROM transition WHERE wall < :before AND id NOT IN (SELECT max(id) FROM transition GROUP BY "
    "tunnel)",
    "DELETE FROM session WHERE ended < :before",
    "DELETE FROM incident WHERE closed < :before",
    "DELETE FROM run WHERE id NOT IN (SELECT run FROM transition UNION SELECT run FROM session UNION "
    "SELECT max(id) FROM run)",
)
_DELETE_OLDEST_TENTH = (
    """
DELETE FROM transition WHERE id IN (
    SELECT id FROM transition WHERE id NOT IN (SELECT max(id) FROM transition GROUP BY tunnel)
    ORDER BY id LIMIT (SELECT max(1, count(*) / 10) FROM transition))""",
    """
DELETE FROM session WHERE rowid IN (
    SELECT rowid FROM session WHERE ended IS NOT NULL ORDER BY rowid LIMIT (SELECT max(1, count(*) / 10) FROM session))""",
    """
DELETE FROM incident WHERE id IN (
    SELECT id FROM incident WHERE closed IS NOT NULL ORDER BY id LIMIT (SELECT max(1, count(*) / 10) FROM incident))""",
)


@dataclass(frozen=True, slots=True)
class DaemonRun:
    """One run of the daemon."""

    id: int
    boot: str  # id of the boot that its monotonic seconds count from
    seen: float  # monotonic seconds: its last sign of life
    offset: float  # Unix time minus monotonic seconds at that moment


@dataclass(frozen=True, slots=True)
class EarlierRuns:
    """What earlier runs of the daemon left in the file."""

    runs: Mapping[int, DaemonRun] = field(default_factory=dict)  # by id
    transitions: tuple[sqlite3.Row, ...] = ()  # by tunnel, oldest first
    ends: tuple[sqlite3.Row, ...] = ()  # sessions that ended, oldest first
    open_incidents: frozenset[str] = frozenset()  # names


@dataclass(frozen=True, slots=True)
class ClockReading:
    """One moment on both clocks."""

    at: float  # monotonic seconds
    offset: float  # Unix time minus monotonic seconds
    boot: str = ""  # id of the boot that the monotonic seconds count from

    @property
    def wall(self) -> float:
        """Unix time."""
        return self.at + self.offset


class Archive:
    """Writes the file, from one thread. Every method may raise `sqlite3.Error` or `OSError`; the next call
    then opens the file again.
    """

    def __init__(
        self,
        directory: Path,
        version: str,
        *,
        busy_timeout: float = 1.0,
        age: float = MAX_AGE_SECONDS,
        size: int = MAX_BYTES,
    ) -> None:
        """`busy_timeout` in seconds: how long to wait for another process's lock; `age` in seconds and `size`
        in bytes bound what is kept.
        """
        self.path = directory / FILE
        self._version, self._busy_timeout, self._age, self._size = version, busy_timeout, age, size
        self._connection: sqlite3.Connection | None = None
        self._run = 0

    def begin(self, now: ClockReading, adopted: Mapping[str, tuple[str, ...]], since: float) -> EarlierRuns:
        """Begin a run: sessions that an earlier run left open are closed as lost, but for the `adopted` ones
        (session ids by tunnel). Gives what earlier runs wrote since the Unix time `since`.
        """
        with self._transaction(now) as db:
            for tunnel, ids in adopted.items():
                _adopt(db, tunnel, ids, self._run, now)
            db.execute(_CLOSE_LOST_SESSIONS, {"lost": LOST, "run": self._run})
            return _earlier_runs(db, since)

    def write(self, statements: Iterable[Statement], now: ClockReading) -> None:
        """Carry out all of these, or none. `now` becomes the last sign of life of this run."""
        with self._transaction(now) as db:
            for statement in statements:
                db.execute(statement.sql, {**statement.values, "run": self._run})
            db.execute(
                "UPDATE run SET seen=max(seen, ?), offset=? WHERE id=?", (now.at, now.offset, self._run)
            )

    def prune(self, now: ClockReading) -> None:
        """Delete what is too old, then the oldest rows until the file is within its size."""
        self._delete(_DELETE_OLD, now)
        excess = self._excess_bytes(now)
        while excess > 0 and self._delete(_DELETE_OLDEST_TENTH, now):
            excess = self._excess_bytes(now)
        # executescript, unlike execute, steps the statement to its end.
        self._opened(now).executescript("PRAGMA incremental_vacuum")

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _delete(self, statements: Iterable[str], now: ClockReading) -> bool:
        """True if that deleted any row."""
        with self._transaction(now) as db:
            return sum(db.execute(sql, {"before": now.wall - self._age}).rowcount for sql in statements) > 0

    def _excess_bytes(self, now: ClockReading) -> int:
        """Bytes in use beyond the limit."""
        db = self._opened(now)
        pages, free, size = (
            db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size) - self._size

    def _opened(self, now: ClockReading) -> sqlite3.Connection:
        """The connection; opening the file also inserts this run, if the file does not have it."""
        if self._connection is None:
            connection = connect(self.path, self._busy_timeout, "NORMAL")
            try:
                self._run = _insert_run(connection, self._run, self._version, now)
            except sqlite3.Error:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    @contextlib.contextmanager
    def _transaction(self, now: ClockReading) -> Iterator[sqlite3.Connection]:
        """One transaction. After an error the next call opens the file again; a corrupt file is renamed and
        reported as `Damaged`.
        """
        try:
            connection = self._opened(now)
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self.close()
            self._connection = None
            if broken(error):
                self._run = 0
                raise Damaged(f"{error}; set aside as {set_aside(self.path)}") from error
            raise


def _insert_run(db: sqlite3.Connection, run: int, version: str, now: ClockReading) -> int:
    """The id of this run in this file; `run` is the one that it had when the file was open before."""
    db.row_factory = sqlite3.Row
    db.execute(f"PRAGMA journal_size_limit={_MAX_WAL_BYTES}")
    migrate(db, MIGRATIONS)
    if run and db.execute("SELECT 1 FROM run WHERE id=?", (run,)).fetchone():
        return run
    values = (now.boot, version, now.at, now.at, now.offset)
    sql = "INSERT INTO run (boot, version, began, seen, offset) VALUES (?, ?, ?, ?, ?)"
    return int(db.execute(sql, values).lastrowid or 0)


def _earlier_runs(db: sqlite3.Connection, since: float) -> EarlierRuns:
    runs = {
        row["id"]: DaemonRun(row["id"], row["boot"], row["seen"], row["offset"])
        for row in db.execute("SELECT * FROM run")
    }
    transitions = db.execute(_EARLIER_TRANSITIONS, {"since": since})
    ends = db.execute(
        "SELECT tunnel, ended, reason, text FROM session WHERE ended >= ? ORDER BY ended, rowid", (since,)
    )
    incidents = db.execute("SELECT name FROM incident WHERE closed IS NULL")
    return EarlierRuns(runs, tuple(transitions), tuple(ends), frozenset(row["name"] for row in incidents))


def _adopt(db: sqlite3.Connection, tunnel: str, ids: tuple[str, ...], run: int, now: ClockReading) -> None:
    """Continue a tunnel in this run: its open sessions, by id, and its last transition."""
    for id in ids:
        db.execute("UPDATE session SET run=? WHERE tunnel=? AND id=? AND ended IS NULL", (run, tunnel, id))
    db.execute(
        _REPEAT_LAST_TRANSITION,
        {"run": run, "at": now.at, "wall": now.wall, "reason": ADOPTED, "tunnel": tunnel},
    )
