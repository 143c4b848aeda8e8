"""Reads `history.db` beside its writer: each call opens a connection of its own, so any thread may ask.

In WAL mode readers do not block the writer (https://www.sqlite.org/wal.html).
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

_BUSY_SECONDS = 1.0  # how long to wait for another process's lock

_LATEST: Mapping[str, str] = MappingProxyType(
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

_SESSION_LENGTHS = """
SELECT tunnel, lasted - (connected - started) AS seconds, reason, coalesce((
    SELECT health FROM transition AS t WHERE t.tunnel = last.tunnel AND t.run = last.run AND t.session = last.number AND t.after = 'up'
    ORDER BY t.id DESC LIMIT 1), 'unknown') AS health FROM (
    SELECT *, row_number() OVER (PARTITION BY tunnel ORDER BY ended DESC, rowid DESC) AS place
    FROM session WHERE connected IS NOT NULL AND lasted IS NOT NULL) AS last
WHERE place <= :count ORDER BY tunnel, place DESC"""


def session_lengths(path: Path, count: int) -> list[tuple[str, float, str, str]]:
    """Tunnel, seconds from connected to the end, reason, and health until then of each tunnel's last `count`
    sessions, oldest first. Raises sqlite3.Error.
    """
    with contextlib.closing(_read_only(path)) as connection:
        return [tuple(row) for row in connection.execute(_SESSION_LENGTHS, {"count": count})]


def latest(path: Path, tunnel: str | None, limit: int) -> dict[str, list[dict[str, Any]]]:
    """The last `limit` sessions, transitions and incidents, newest first, by these names; of one tunnel, or
    of all. Raises sqlite3.Error.
    """
    with contextlib.closing(_read_only(path)) as connection:
        return {
            table: [dict(row) for row in connection.execute(sql, {"tunnel": tunnel, "limit": limit})]
            for table, sql in _LATEST.items()
        }


def _read_only(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS)
    connection.row_factory = sqlite3.Row
    return connection
