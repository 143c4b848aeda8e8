"""What the history tells a new daemon about how long sessions last."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from supervisor.core.session.lifetime import ended_there
from supervisor.reports.history.queries import session_lengths
from supervisor.reports.history.schema import MIGRATIONS


@pytest.mark.parametrize(("health", "there"), [("healthy", True), ("unhealthy", False), (None, True)])
def test_a_session_that_was_dead_before_its_end_shows_no_limit(
    tmp_path: Path, health: str | None, there: bool
) -> None:
    path = tmp_path / "history.db"
    with sqlite3.connect(path) as connection:
        for script in MIGRATIONS:
            connection.executescript(script)
        connection.execute(
            "INSERT INTO session (run, tunnel, number, id, kind, started, connected, ended, lasted, reason) "
            "VALUES (1, 'acme', 4, 'a', 'openvpn', 10.0, 12.0, 3612.0, 3602.0, 'peer-closed')"
        )
        seen = [] if health is None else [("healthy", "up"), (health, "up"), ("unknown", "backoff")]
        for before, after in seen:
            connection.execute(
                "INSERT INTO transition (run, at, wall, tunnel, session, before, after, health, standing, reason, text, "
                "lasted) VALUES (1, 0, 0, 'acme', 4, 'up', ?, ?, 'up', 'x', '', 0)",
                (after, before),
            )
    connection.close()
    [(tunnel, seconds, reason, told)] = session_lengths(path, 12)
    assert (tunnel, seconds, reason) == ("acme", 3600.0, "peer-closed")
    assert ended_there(reason, told) is there
