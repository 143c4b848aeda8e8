"""The daemon's SQLite files: opened in WAL mode, migrated to the newest schema, renamed when they are
corrupt.

https://www.sqlite.org/wal.html, https://www.sqlite.org/pragma.html
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from supervisor.core.humanize import iso

_BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Damaged(sqlite3.DatabaseError):
    """The file was corrupt and has been renamed; opening it again creates a new one."""


class Newer(sqlite3.DatabaseError):
    """The file was written by a later version of the daemon, with a schema that this one does not know."""


def connect(path: Path, busy_timeout: float, synchronous: str) -> sqlite3.Connection:
    """A connection in autocommit mode to a file that only its user can read. `busy_timeout` in seconds;
    `synchronous` is FULL (a commit survives a power cut) or NORMAL (it may not). Raises sqlite3.Error,
    OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    connection = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None)
    try:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def migrate(connection: sqlite3.Connection, steps: Sequence[str]) -> None:
    """Migrate the schema from its `user_version` to the newest in one transaction; step n leads from n to n +
    1. Raises Newer, sqlite3.Error.
    """
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(steps):
        raise Newer(f"its schema has version {version}, and only {len(steps)} is known here")
    if version < len(steps):
        script = "\n".join(steps[version:])
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version={len(steps)};\nCOMMIT;")


def broken(error: sqlite3.Error) -> bool:
    """True if the file's content is the cause, and not the disk or a lock."""
    return isinstance(error, Newer) or getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN


def set_aside(path: Path) -> str:
    """Rename the file and its journal; gives the new name."""
    name = f"{path.name}.corrupt-{iso(time.time())}"
    for suffix in ("-wal", "-shm", ""):  # the database last: a journal without it is ignored
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(path.with_name(name + suffix))
    return name
