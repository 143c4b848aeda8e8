"""The store in PostgreSQL, which several service processes may share; needs psycopg 3."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import psycopg
from psycopg.rows import dict_row, scalar_row

from hub.service.database import ResultT, Row, Transaction, Unavailable
from hub.service.schema import STEPS

_LOCK = 173173  # advisory lock that every writing transaction holds
_CONNECT_SECONDS = 5
_STATEMENT_MILLISECONDS = 10_000

_Connection = psycopg.Connection[Row]


@cache
def _sql(text: str) -> bytes:
    """With PostgreSQL's own word for a parameter."""
    return text.replace("?", "%s").encode()


class PostgresqlTransaction:
    """Statements on one connection."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    def rows(self, sql: str, *parameters: object) -> list[Row]:
        """Run a statement; its rows."""
        cursor = self._connection.execute(_sql(sql), parameters)
        return cursor.fetchall() if cursor.description is not None else []

    def column(self, sql: str, *parameters: object) -> list[Any]:
        """Run a statement; the only column of its rows."""
        with self._connection.cursor(row_factory=scalar_row) as cursor:
            return cursor.execute(_sql(sql), parameters).fetchall()

    def many(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """Run a statement for each of these."""
        with self._connection.cursor() as cursor:
            cursor.executemany(_sql(sql), rows)


class PostgresqlConnection:
    """Connects, and makes or migrates the tables."""

    def __init__(self, address: str, writing: bool = True) -> None:
        """`address`: as libpq takes it, postgresql://... Unavailable."""
        self._writing = writing
        try:
            self._connection: _Connection = psycopg.connect(
                address, connect_timeout=_CONNECT_SECONDS, row_factory=dict_row, autocommit=False,
                options=f"-c statement_timeout={_STATEMENT_MILLISECONDS}",
            )  # fmt: skip
            self._migrate()
        except psycopg.Error as error:
            raise Unavailable(f"PostgreSQL: {error}") from error

    def transact(self, work: Callable[[Transaction], ResultT]) -> ResultT:
        """Run the function in a transaction. Unavailable."""
        try:
            with self._connection.transaction():
                if self._writing:
                    self._connection.execute(_sql("SELECT pg_advisory_xact_lock(?)"), (_LOCK,))
                return work(PostgresqlTransaction(self._connection))
        except psycopg.OperationalError as error:
            raise Unavailable(f"PostgreSQL: {error}") from error

    def close(self) -> None:
        """Close it."""
        with contextlib.suppress(psycopg.Error):
            self._connection.close()

    def _migrate(self) -> None:
        """In one transaction, which waits for another process that does the same."""
        with self._connection.transaction():
            self._connection.execute(_sql("SELECT pg_advisory_xact_lock(?)"), (_LOCK,))
            self._connection.execute(b"CREATE TABLE IF NOT EXISTS schema_version (version integer NOT NULL)")
            found = self._connection.execute(b"SELECT version FROM schema_version").fetchone()
            version = found["version"] if found is not None else 0
            if version > len(STEPS):
                raise psycopg.DataError(f"its tables have version {version}, and {len(STEPS)} is known here")
            if found is None:
                self._connection.execute(b"INSERT INTO schema_version (version) VALUES (0)")
            for statement in (part for step in STEPS[version:] for part in step.split(";") if part.strip()):
                self._connection.execute(_sql(statement))
            self._connection.execute(_sql("UPDATE schema_version SET version = ?"), (len(STEPS),))
