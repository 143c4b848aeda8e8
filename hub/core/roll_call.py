"""What a node's heartbeat says about the sessions that the store holds open on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from hub.core.api import Heartbeat, StaffSessionState


class OpenSession(NamedTuple):
    """What a heartbeat is compared with. There may be thousands."""

    id: str
    boot: str
    state: str
    sequence: int


@dataclass(frozen=True, slots=True)
class RollCall:
    """Ids of sessions. `lost`: of an earlier run of OpenVPN; `gone`: not named any more; `up`: named as up
    for the first time; `unknown`: named, and not open here.
    """

    lost: tuple[str, ...]
    gone: tuple[str, ...]
    up: tuple[str, ...]
    unknown: tuple[str, ...]


ALL_AS_KNOWN = RollCall((), (), (), ())


def roll_call(opened: Iterable[OpenSession], heartbeat: Heartbeat) -> RollCall:
    """Compare. A login that was sent after the list was made is not missed in it."""
    here: list[OpenSession] = []
    lost: list[OpenSession] = []
    for session in opened:
        (here if session.boot == heartbeat.boot else lost).append(session)
    named = set(heartbeat.sessions)
    gone = (each.id for each in here if each.id not in named and each.sequence <= heartbeat.sequence)
    risen = (each.id for each in here if each.state == StaffSessionState.ALLOWED and each.id in named)
    return RollCall(
        tuple(each.id for each in lost),
        tuple(gone),
        tuple(each for each in risen if each not in heartbeat.waiting),
        tuple(sorted(named - {each.id for each in here})),
    )
