"""What a node's heartbeat says about the sessions that the store holds open on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hub.core.api import Heartbeat, StaffSessionState
from hub.core.sessions import StaffSession


@dataclass(frozen=True, slots=True)
class RollCall:
    """`gone`: not named any more; `up`: named as up for the first time; `unknown`: named, not open here."""

    gone: tuple[StaffSession, ...]
    up: tuple[StaffSession, ...]
    unknown: tuple[str, ...]


def roll_call(opened: Iterable[StaffSession], heartbeat: Heartbeat) -> RollCall:
    """Compare. A login that was sent after the list was made is not missed in it."""
    rows = {session.id: session for session in opened}
    named = set(heartbeat.sessions)
    gone = (row for row in rows.values() if row.id not in named and row.sequence <= heartbeat.sequence)
    up = (
        rows[session]
        for session in named - heartbeat.waiting
        if session in rows and rows[session].state is StaffSessionState.ALLOWED
    )
    return RollCall(tuple(gone), tuple(up), tuple(sorted(named - rows.keys())))
