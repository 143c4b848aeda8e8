"""Incidents on disk: a SQLite file in `state_dir`, written before anything is sent (transactional outbox).
Used by the pager's thread only.

A corrupt file is renamed and a new one is begun. Every other error is raised: `reports.paging.outbox` goes on
from memory and resynchronizes later.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from supervisor.reports.paging.incident import Action, Incident, IncidentMessage, RemoteState
from supervisor.reports.sqlite import Damaged, broken, connect, set_aside

FILE = "facilitator.db"
MAX_DEAD_LETTERS = 200  # rows kept

_SCHEMA = """
CREATE TABLE IF NOT EXISTS incident (
    dedup_key TEXT PRIMARY KEY, tunnel TEXT NOT NULL, location TEXT NOT NULL, since REAL NOT NULL,
    wanted INTEGER NOT NULL, there TEXT NOT NULL, fingerprint TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS outbox (
    dedup_key TEXT PRIMARY KEY, action TEXT NOT NULL, body TEXT NOT NULL, created REAL NOT NULL,
    attempts INTEGER NOT NULL, error TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS dead_letter (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, dedup_key TEXT NOT NULL, action TEXT NOT NULL, body TEXT NOT NULL, error TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was rejected permanently."""

    at: float  # Unix time
    dedup_key: str
    action: str
    error: str


class Store:
    """The incidents, their unsent messages and the dead letters in one file. Every method may raise
    `sqlite3.Error` or `OSError`.
    """

    def __init__(self, directory: Path, busy_timeout: float = 1.0, file: str = FILE) -> None:
        """`busy_timeout` in seconds: how long to wait for another process's lock."""
        self.path = directory / file
        self._busy_timeout = busy_timeout
        self._connection: sqlite3.Connection | None = None

    def load(self) -> list[Incident]:
        """All incidents that are not finished."""
        with self._transaction() as db:
            messages = {
                row[0]: IncidentMessage(Action(row[1]), *row[2:])
                for row in db.execute("SELECT dedup_key, action, body, created, attempts, error FROM outbox")
            }
            return [
                Incident(
                    key,
                    tunnel,
                    location,
                    since,
                    bool(wanted),
                    RemoteState(there),
                    fingerprint,
                    message=messages.get(key),
                )
                for key, tunnel, location, since, wanted, there, fingerprint in db.execute(
                    "SELECT dedup_key, tunnel, location, since, wanted, there, fingerprint FROM incident"
                )
            ]

    def save(self, incident: Incident) -> None:
        """Write this incident and its message in one transaction; a finished one is deleted."""
        with self._transaction() as db:
            _put(db, incident)

    def replace_all(self, incidents: Iterable[Incident]) -> None:
        """Replace the whole content by these, in one transaction."""
        with self._transaction() as db:
            db.execute("DELETE FROM incident")
            db.execute("DELETE FROM outbox")
            for incident in incidents:
                _put(db, incident)

    def add_dead_letter(self, incident: Incident, error: str) -> None:
        """Keep the incident's message, which was rejected permanently, for the operator to look at."""
        message = incident.message
        if message is None:
            return
        with self._transaction() as db:
            db.execute(
                "INSERT INTO dead_letter (at, dedup_key, action, body, error) VALUES (?, ?, ?, ?, ?)",
                (time.time(), incident.dedup_key, message.action.value, message.body, error),
            )
            db.execute(
                "DELETE FROM dead_letter WHERE id NOT IN (SELECT id FROM dead_letter ORDER BY id DESC "
                "LIMIT ?)",
                (MAX_DEAD_LETTERS,),
            )

    def dead_letters(self, limit: int) -> list[DeadLetter]:
        """The latest dead letters, newest first."""
        with self._transaction() as db:
            return [
                DeadLetter(*row)
                for row in db.execute(
                    "SELECT at, dedup_key, action, error FROM dead_letter ORDER BY id DESC LIMIT ?", (limit,)
                )
            ]

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is on disk when the block ends. After an error the next call opens the file
        again.
        """
        try:
            if self._connection is None:
                self._connection = _open(self.path, self._busy_timeout)
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self.close()
            self._connection = None
            if broken(error):
                raise Damaged(f"{error}; set aside as {set_aside(self.path)}") from error
            raise


def _open(path: Path, busy_timeout: float) -> sqlite3.Connection:
    connection = connect(path, busy_timeout, "FULL")
    try:
        connection.executescript(_SCHEMA)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _put(db: sqlite3.Connection, incident: Incident) -> None:
    message = incident.message
    db.execute("DELETE FROM outbox WHERE dedup_key = ?", (incident.dedup_key,))
    if incident.finished:
        db.execute("DELETE FROM incident WHERE dedup_key = ?", (incident.dedup_key,))
        return
    db.execute(
        "INSERT OR REPLACE INTO incident VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            incident.dedup_key,
            incident.tunnel,
            incident.location,
            incident.since,
            incident.wanted,
            incident.remote.value,
            incident.fingerprint,
        ),
    )
    if message is not None:
        db.execute(
            "INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?)",
            (
                incident.dedup_key,
                message.action.value,
                message.body,
                message.created,
                message.attempts,
                message.error,
            ),
        )
