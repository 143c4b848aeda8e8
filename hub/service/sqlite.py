"""The store in a file: SQLite, for one service process."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hub.service.database import ResultT, Row, Transaction, Unavailable
from hub.service.schema import STEPS

_BUSY_SECONDS = 5.0


class SqliteTransaction:
    """Statements on one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, sql: str, *parameters: object) -> list[Row]:
        """Run a statement; its rows."""
        cursor = self._connection.execute(sql, parameters)
        if cursor.description is None:
            return []
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def column(self, sql: str, *parameters: object) -> list[Any]:
        """Run a statement; the only column of its rows."""
        return [value for (value,) in self._connection.execute(sql, parameters)]

    def many(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """Run a statement for each of these."""
        self._connection.executemany(sql, rows)


class SqliteConnection:
    """Opens the file, makes or migrates its tables. Every commit is on the disk before it is answered."""

    def __init__(self, path: Path, writing: bool = True) -> None:
        """Unavailable."""
        self._writing = writing
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._migrate()
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(f"{path}: {error}") from error

    def transact(self, work: Callable[[Transaction], ResultT]) -> ResultT:
        """Run the function in a transaction. Unavailable."""
        try:
            self._connection.execute("BEGIN IMMEDIATE" if self._writing else "BEGIN")
            try:
                result = work(SqliteTransaction(self._connection))
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            raise Unavailable(str(error)) from error
        return result

    def close(self) -> None:
        """Close it."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def _migrate(self) -> None:
        """In one transaction, which waits for another connection that does the same."""
        self._connection.execute("BEGIN IMMEDIATE")
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(STEPS):
            self._connection.execute("ROLLBACK")
            raise sqlite3.DatabaseError(f"its tables have version {version}, and {len(STEPS)} is known here")
        for statement in (part for step in STEPS[version:] for part in step.split(";") if part.strip()):
            self._connection.execute(statement)
        self._connection.execute(f"PRAGMA user_version={len(STEPS)}")
        self._connection.execute("COMMIT")
