"""The schema of `history.db`, and the statements that write its rows.

Columns named `wall`, `started`, `connected`, `ended`, `opened` and `closed` are Unix time as the clock said
it then. `at`, `began` and `seen` are monotonic seconds of the run's boot, and `offset` is Unix time minus
monotonic seconds when the run was last seen. Durations are seconds, `received` and `sent` are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Migrations: step n leads from `user_version` n to n + 1 (`reports.sqlite.migrate`). Append, never change.
MIGRATIONS = (
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

_INSERT_TRANSITION = """
INSERT INTO transition (run, at, wall, tunnel, session, before, after, health, standing, reason, text, lasted, rung)
VALUES (:run, :at, :wall, :tunnel, :session, :before, :after, :health, :standing, :reason, :text, :lasted, :rung)"""
_UPSERT_SESSION = """
INSERT INTO session (run, tunnel, number, id, kind, device, port, address, peer, started, connected, ended, lasted, reason, text)
VALUES (:run, :tunnel, :number, :id, :kind, :device, :port, :address, :peer, :started, :connected, :ended, :lasted, :reason, :text)
ON CONFLICT (run, tunnel, number) DO UPDATE SET id=:id, device=:device, port=:port, address=:address, peer=:peer,
    connected=coalesce(connected, :connected), ended=:ended, lasted=:lasted, reason=:reason, text=:text"""
_SET_BYTES = (
    "UPDATE session SET received=:received, sent=:sent WHERE run=:run AND tunnel=:tunnel AND number=:number"
)
_ADD_TRAFFIC = """
UPDATE session SET flows=coalesce(flows, 0) + :flows, received=CASE :proxy WHEN 0 THEN received ELSE coalesce(received, 0) + :received END,
    sent=CASE :proxy WHEN 0 THEN sent ELSE coalesce(sent, 0) + :sent END
WHERE run=:run AND tunnel=:tunnel AND number=:number"""
_OPEN_INCIDENT = (
    "INSERT INTO incident (name, severity, summary, opened) VALUES (:name, :severity, :summary, :wall)"
)
_CLOSE_INCIDENT = "UPDATE incident SET closed=:wall WHERE name=:name AND closed IS NULL"


@dataclass(frozen=True, slots=True)
class Statement:
    """One change of the file. `Archive.write` adds the number of the run as `:run`."""

    sql: str
    values: Mapping[str, Any]


def transition(**columns: Any) -> Statement:
    """Insert a row of `transition`."""
    return Statement(_INSERT_TRANSITION, columns)


def session(**columns: Any) -> Statement:
    """Insert a row of `session`, or update it by what is known now."""
    return Statement(_UPSERT_SESSION, columns)


def session_bytes(tunnel: str, number: int, received: float, sent: float) -> Statement:
    """Set the bytes of a session so far."""
    return Statement(
        _SET_BYTES, {"tunnel": tunnel, "number": number, "received": int(received), "sent": int(sent)}
    )


def lane_traffic(
    tunnel: str, number: int, flows: float, proxy_bytes: tuple[float, float] | None
) -> Statement:
    """Add to what the session has carried: flows, and the bytes received and sent if a proxy carries it
    (None: its interface counts them).
    """
    received, sent = proxy_bytes or (0, 0)
    return Statement(
        _ADD_TRAFFIC,
        {
            "tunnel": tunnel,
            "number": number,
            "flows": int(flows),
            "proxy": int(proxy_bytes is not None),
            "received": int(received),
            "sent": int(sent),
        },
    )


def incident_opened(name: str, severity: str, summary: str, wall: float) -> Statement:
    """Insert an open incident."""
    return Statement(_OPEN_INCIDENT, {"name": name, "severity": severity, "summary": summary, "wall": wall})


def incident_closed(name: str, wall: float) -> Statement:
    """Close the open incident of this name."""
    return Statement(_CLOSE_INCIDENT, {"name": name, "wall": wall})
