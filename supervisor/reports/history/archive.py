"""History on disk: `history.db` in `state_dir`, a SQLite file with runs of the daemon, transitions,
sessions and incidents.

One thread writes (`reports.history.recorder`); anybody may read beside it, on a connection of his own. `wall`
columns are Unix time as the clock said it then; `at`, `began` and `seen` are monotonic seconds of the run's
boot, `offset` is what turned these into Unix time when the run was last seen.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from supervisor.core.views.availability import ADOPTED, LOST
from supervisor.reports.sqlite import Damaged, broken, connect, migrate, set_aside

FILE = "history.db"
AGE = 400 * 86400.0  # seconds: what is older is forgotten
SIZE = 64 << 20  # bytes in use: beyond it the oldest is forgotten
_LOG_SIZE = 4 << 20  # bytes that the write-ahead log keeps on disk

_SCHEMA = (
    """
CREATE TABLE run (
    id INTEGER PRIMARY KEY, boot TEXT NOT NULL, version TEXT NOT NULL, began REAL NOT NULL, seen REAL NOT NULL, offset REAL NOT NULL);
CREATE TABLE transition (
    id INTEGER PRIMARY KEY, run INTEGER NOT NULL, at REAL NOT NULL, wall REAL NOT NULL, tunnel TEXT NOT NULL, session INTEGER NOT NULL,
    before TEXT NOT NULL, after TEXT NOT NULL, health TEXT NOT NULL, standing TEXT NOT NULL, reason TEXT NOT NULL, text TEXT NOT NULL,
    lasted REAL NOT NULL, rung TEXT);
CREATE INDEX transition_tunnel ON transition (tunnel, id);
CREATE TABLE session (
    run INTEGER NOT NULL, tunnel TEXT NOT NULL, number INTEGER NOT NULL, id TEXT NOT NULL, kind TEXT NOT NULL, device TEXT, port INTEGER,
    address TEXT, peer TEXT, started REAL NOT NULL, connected REAL, ended REAL, lasted REAL, reason TEXT, text TEXT,
    received INTEGER, sent INTEGER, UNIQUE (run, tunnel, number));
CREATE INDEX session_open ON session (run) WHERE ended IS NULL;
CREATE TABLE incident (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, severity TEXT NOT NULL, summary TEXT NOT NULL, opened REAL NOT NULL, closed REAL);
""",
    "ALTER TABLE session ADD COLUMN flows INTEGER;",
)

_TRANSITION = """
INSERT INTO transition (run, at, wall, tunnel, session, before, after, health, standing, reason, text, lasted, rung)
VALUES (:run, :at, :wall, :tunnel, :session, :before, :after, :health, :standing, :reason, :text, :lasted, :rung)"""
_SESSION = """
INSERT INTO session (run, tunnel, number, id, kind, device, port, address, peer, started, connected, ended, lasted, reason, text)
VALUES (:run, :tunnel, :number, :id, :kind, :device, :port, :address, :peer, :started, :connected, :ended, :lasted, :reason, :text)
ON CONFLICT (run, tunnel, number) DO UPDATE SET id=:id, device=:device, port=:port, address=:address, peer=:peer,
    connected=coalesce(connected, :connected), ended=:ended, lasted=:lasted, reason=:reason, text=:text"""
_BYTES = (
    "UPDATE session SET received=:received, sent=:sent WHERE run=:run AND tunnel=:tunnel AND number=:number"
)
_MORE = """
UPDATE session SET flows=coalesce(flows, 0) + :flows, received=CASE :proxy WHEN 0 THEN received ELSE coalesce(received, 0) + :received END,
    sent=CASE :proxy WHEN 0 THEN sent ELSE coalesce(sent, 0) + :sent END
WHERE run=:run AND tunnel=:tunnel AND number=:number"""
_OPENED = "INSERT INTO incident (name, severity, summary, opened) VALUES (:name, :severity, :summary, :wall)"
_CLOSED = "UPDATE incident SET closed=:wall WHERE name=:name AND closed IS NULL"

_LOSE = """
UPDATE session SET reason=:lost, ended=max(started, (SELECT seen + offset FROM run WHERE run.id = session.run))
WHERE ended IS NULL AND run <> :run"""
_RESUME = """
INSERT INTO transition (run, at, wall, tunnel, session, before, after, health, standing, reason, text, lasted)
SELECT :run, :at, :wall, tunnel, session, after, after, health, standing, :reason, '', 0.0 FROM transition WHERE tunnel = :tunnel
ORDER BY id DESC LIMIT 1"""
_PAST = """
SELECT run, at, tunnel, standing, after, reason FROM transition
WHERE wall >= :since OR id IN (SELECT max(id) FROM transition WHERE wall < :since GROUP BY tunnel) ORDER BY tunnel, id"""

# The last transition of each tunnel stays: what a tunnel is since a year stands only there.
_TOO_OLD = (
    "DELETE FROM transition WHERE wall < :before AND id NOT IN (SELECT max(id) FROM transition GROUP BY "
    "tunnel)",
    "DELETE FROM session WHERE ended < :before",
    "DELETE FROM incident WHERE closed < :before",
    "DELETE FROM run WHERE id NOT IN (SELECT run FROM transition UNION SELECT run FROM session UNION "
    "SELECT max(id) FROM run)",
)
_TOO_MUCH = (
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

_READ: Mapping[str, str] = MappingProxyType(
    {
        "sessions": """
        SELECT tunnel, id, kind, device, port, address, peer, started, connected, ended, coalesce(lasted, ended - started) AS lasted,
            reason, text, received, sent, flows
        FROM session WHERE :tunnel IS NULL OR tunnel = :tunnel ORDER BY started DESC, rowid DESC LIMIT :limit""",
        "transitions": """
        SELECT wall AS at, tunnel, session, before, after, health, standing, reason, text, lasted, rung
        FROM transition WHERE :tunnel IS NULL OR tunnel = :tunnel ORDER BY id DESC LIMIT :limit""",
        "incidents": """
        SELECT name, severity, summary, opened, closed
        FROM incident WHERE :tunnel IS NULL OR name = :tunnel ORDER BY id DESC LIMIT :limit""",
    }
)

_LENGTHS = """
SELECT tunnel, lasted - (connected - started) AS seconds, reason FROM (
    SELECT *, row_number() OVER (PARTITION BY tunnel ORDER BY ended DESC, rowid DESC) AS place
    FROM session WHERE connected IS NOT NULL AND lasted IS NOT NULL)
WHERE place <= :count ORDER BY tunnel, place DESC"""


@dataclass(frozen=True, slots=True)
class Statement:
    """One change of the file; the run's number is added when it is carried out."""

    sql: str
    values: Mapping[str, Any]


def transition(**values: Any) -> Statement:
    """A row of `transition`."""
    return Statement(_TRANSITION, values)


def session(**values: Any) -> Statement:
    """A row of `session`, new or with what is known of it by now."""
    return Statement(_SESSION, values)


def traffic(tunnel: str, number: int, received: float, sent: float) -> Statement:
    """The bytes of a session so far."""
    return Statement(
        _BYTES, {"tunnel": tunnel, "number": number, "received": int(received), "sent": int(sent)}
    )


def more(tunnel: str, number: int, flows: float, through_proxy: tuple[float, float] | None) -> Statement:
    """What the session has carried since the last time: flows, and the bytes both ways where no device
    counts them.
    """
    received, sent = through_proxy or (0, 0)
    proxy = through_proxy is not None
    return Statement(
        _MORE,
        {
            "tunnel": tunnel,
            "number": number,
            "flows": int(flows),
            "proxy": int(proxy),
            "received": int(received),
            "sent": int(sent),
        },
    )


def incident_opened(name: str, severity: str, summary: str, wall: float) -> Statement:
    """Somebody is called."""
    return Statement(_OPENED, {"name": name, "severity": severity, "summary": summary, "wall": wall})


def incident_closed(name: str, wall: float) -> Statement:
    """The open incident of this name is over."""
    return Statement(_CLOSED, {"name": name, "wall": wall})


@dataclass(frozen=True, slots=True)
class DaemonRun:
    """One run of a daemon, as far as it was seen."""

    id: int
    boot: str
    seen: float
    offset: float


@dataclass(frozen=True, slots=True)
class Past:
    """What earlier runs left, as rows: transitions by tunnel in their order, ends of sessions, incidents
    that are open.
    """

    runs: Mapping[int, DaemonRun] = field(default_factory=dict)
    transitions: tuple[sqlite3.Row, ...] = ()
    ends: tuple[sqlite3.Row, ...] = ()
    incidents: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Now:
    """The moment, as both clocks say it, and the boot that the first one belongs to."""

    at: float  # monotonic seconds
    offset: float  # Unix time minus monotonic seconds
    boot: str = ""

    @property
    def wall(self) -> float:
        """Unix time."""
        return self.at + self.offset


class Archive:
    """The file, for the one thread that writes. Every method may raise `sqlite3.Error` or `OSError`; the
    next call opens it anew.
    """

    def __init__(
        self, directory: Path, version: str, *, busy_timeout: float = 1.0, age: float = AGE, size: int = SIZE
    ) -> None:
        """`busy_timeout` in seconds, for somebody else's lock; `age` in seconds and `size` in bytes bound
        what is kept.
        """
        self.path = directory / FILE
        self._version, self._busy_timeout, self._age, self._size = version, busy_timeout, age, size
        self._connection: sqlite3.Connection | None = None
        self._run = 0

    def begin(self, now: Now, adopted: Mapping[str, tuple[str, ...]], since: float) -> Past:
        """Begin a run: what an earlier one left open is closed, but for tunnels with which this one goes
        on, and their sessions (ids).

        Gives what happened since then.
        """
        with self._transaction(now) as db:
            for tunnel, ids in adopted.items():
                _adopt(db, tunnel, ids, self._run, now)
            db.execute(_LOSE, {"lost": LOST, "run": self._run})
            return _past(db, since)

    def write(self, statements: Iterable[Statement], now: Now) -> None:
        """All of these, or none. `now` is the last sign of life of this run."""
        with self._transaction(now) as db:
            for statement in statements:
                db.execute(statement.sql, {**statement.values, "run": self._run})
            db.execute(
                "UPDATE run SET seen=max(seen, ?), offset=? WHERE id=?", (now.at, now.offset, self._run)
            )

    def prune(self, now: Now) -> None:
        """Forget what is too old, and the oldest of what is too much."""
        self._delete(_TOO_OLD, now)
        excess = self._excess(now)
        while excess > 0 and self._delete(_TOO_MUCH, now):
            excess = self._excess(now)
        self._opened(now).executescript(
            "PRAGMA incremental_vacuum"
        )  # which, unlike execute, goes on to its end

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _delete(self, statements: Iterable[str], now: Now) -> bool:
        """True when that took any row away."""
        with self._transaction(now) as db:
            return sum(db.execute(sql, {"before": now.wall - self._age}).rowcount for sql in statements) > 0

    def _excess(self, now: Now) -> int:
        """Bytes in use beyond the limit."""
        db = self._opened(now)
        pages, free, size = (
            db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size) - self._size

    def _opened(self, now: Now) -> sqlite3.Connection:
        """The connection; a file that is opened for the first time, or anew after it was set aside, learns
        of this run.
        """
        if self._connection is None:
            connection = connect(self.path, self._busy_timeout, "NORMAL")
            try:
                self._run = _enter(connection, self._run, self._version, now)
            except sqlite3.Error:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    @contextlib.contextmanager
    def _transaction(self, now: Now) -> Iterator[sqlite3.Connection]:
        """All or nothing. After an error the file is opened anew the next time; a file that cannot be read
        is set aside (Damaged).
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


def _enter(db: sqlite3.Connection, run: int, version: str, now: Now) -> int:
    """The number of this run in this file."""
    db.row_factory = sqlite3.Row
    db.execute(f"PRAGMA journal_size_limit={_LOG_SIZE}")
    migrate(db, _SCHEMA)
    if run and db.execute("SELECT 1 FROM run WHERE id=?", (run,)).fetchone():
        return run
    values = (now.boot, version, now.at, now.at, now.offset)
    return int(
        db.execute(
            "INSERT INTO run (boot, version, began, seen, offset) VALUES (?, ?, ?, ?, ?)", values
        ).lastrowid
        or 0
    )


def _past(db: sqlite3.Connection, since: float) -> Past:
    runs = {
        row["id"]: DaemonRun(row["id"], row["boot"], row["seen"], row["offset"])
        for row in db.execute("SELECT * FROM run")
    }
    transitions = db.execute(_PAST, {"since": since})
    ends = db.execute(
        "SELECT tunnel, ended, reason, text FROM session WHERE ended >= ? ORDER BY ended, rowid", (since,)
    )
    incidents = db.execute("SELECT name FROM incident WHERE closed IS NULL")
    return Past(runs, tuple(transitions), tuple(ends), frozenset(row["name"] for row in incidents))


def _adopt(db: sqlite3.Connection, tunnel: str, ids: tuple[str, ...], run: int, now: Now) -> None:
    """What the tunnel was it still is, and its sessions, where it has any that is open, go on in this run."""
    for id in ids:
        db.execute("UPDATE session SET run=? WHERE tunnel=? AND id=? AND ended IS NULL", (run, tunnel, id))
    db.execute(_RESUME, {"run": run, "at": now.at, "wall": now.wall, "reason": ADOPTED, "tunnel": tunnel})


# --- for readers
# ----------------------------------------------------------------------------------------------------------


def lengths(path: Path, count: int) -> list[tuple[str, float, str]]:
    """Tunnel, seconds from connected to the end, and reason of each tunnel's last sessions, oldest first.
    For any thread; sqlite3.Error.
    """
    with contextlib.closing(_readable(path)) as connection:
        return [tuple(row) for row in connection.execute(_LENGTHS, {"count": count})]


def _readable(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)
    connection.row_factory = sqlite3.Row
    return connection


def read(path: Path, tunnel: str | None, limit: int) -> dict[str, list[dict[str, Any]]]:
    """The last `limit` sessions, transitions and incidents, the newest first; of one tunnel, or of all.
    For any thread; sqlite3.Error.
    """
    with contextlib.closing(_readable(path)) as connection:
        return {
            table: [dict(row) for row in connection.execute(sql, {"tunnel": tunnel, "limit": limit})]
            for table, sql in _READ.items()
        }
