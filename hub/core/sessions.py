"""A session from the login to the end, as a value, and the table of its states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from types import MappingProxyType

from hub.core.api import EndReason, Method, StaffSessionState


@dataclass(frozen=True, slots=True)
class StaffSession:
    """One login and what came of it, as the store holds it. Moments are Unix time in seconds."""

    id: str
    person: str  # CN of the client's certificate
    node: str
    boot: str  # one run of the OpenVPN server
    client_id: int  # OpenVPN's CID in that run
    key_id: int  # OpenVPN's KID of the login
    sequence: int  # of the login request
    certificate: str  # serial number
    client_address: str
    client_port: int
    claims: str  # JSON: what the client says of itself
    method: Method
    state: StaffSessionState
    asked: float
    groups: str = "[]"  # JSON: those of the person
    address: str | None = None  # IPv4 address inside the VPN
    since: float | None = None  # since when it holds the address
    up: float | None = None
    ended: float | None = None
    reason: EndReason | None = None
    ended_by: str | None = None  # subject of the operator's certificate
    end_asked: float | None = None
    end_reason: EndReason | None = None
    end_text: str = ""  # for the person
    until: float | None = None  # end at the latest; of a login that waits, of its waiting
    received_bytes: int = 0
    sent_bytes: int = 0
    decided: bool = False  # it waited, and its node has to be told the decision
    revision: int = 0

    @property
    def live(self) -> bool:
        """It may still be, or come, up."""
        return self.ended is None


class Happening(Enum):
    """What can happen to a session."""

    WAITS = auto()  # for a code, an approval, a browser
    ALLOWED = auto()
    REFUSED = auto()
    UP = auto()
    END_ASKED = auto()
    GONE = auto()  # its node says so


_STATE, _HAPPENING = StaffSessionState, Happening
# What is not in the table changes nothing: messages may come twice, late and in any order.
NEXT: Mapping[tuple[StaffSessionState, Happening], StaffSessionState] = MappingProxyType(
    {
        (_STATE.ASKED, _HAPPENING.WAITS): _STATE.PENDING,
        (_STATE.ASKED, _HAPPENING.ALLOWED): _STATE.ALLOWED,
        (_STATE.ASKED, _HAPPENING.REFUSED): _STATE.REFUSED,
        (_STATE.ASKED, _HAPPENING.GONE): _STATE.REFUSED,
        (_STATE.PENDING, _HAPPENING.ALLOWED): _STATE.ALLOWED,
        (_STATE.PENDING, _HAPPENING.REFUSED): _STATE.REFUSED,
        (_STATE.PENDING, _HAPPENING.GONE): _STATE.REFUSED,
        (_STATE.ALLOWED, _HAPPENING.UP): _STATE.UP,
        (_STATE.ALLOWED, _HAPPENING.END_ASKED): _STATE.ENDING,
        (_STATE.ALLOWED, _HAPPENING.GONE): _STATE.ENDED,
        (_STATE.UP, _HAPPENING.END_ASKED): _STATE.ENDING,
        (_STATE.UP, _HAPPENING.GONE): _STATE.ENDED,
        (_STATE.ENDING, _HAPPENING.GONE): _STATE.ENDED,
    }
)


def moved(session: StaffSession, happening: Happening, now: float) -> StaffSession | None:
    """The session after that; None: it changes nothing."""
    state = NEXT.get((session.state, happening))
    if state is None:
        return None
    if state in (_STATE.REFUSED, _STATE.ENDED):
        return replace(session, state=state, ended=now)
    if state is _STATE.UP:
        return replace(session, state=state, up=now)
    return replace(session, state=state)


def gone(session: StaffSession, reason: EndReason, now: float) -> StaffSession | None:
    """The session after its node said that it is over. If its end was asked for, that is the reason."""
    ended = moved(session, Happening.GONE, now)
    if ended is None:
        return None
    if ended.state is _STATE.REFUSED:
        return replace(ended, reason=EndReason.TIMEOUT if reason is EndReason.LEFT else reason, until=None)
    return replace(ended, reason=session.end_reason or reason)


def refused(session: StaffSession, reason: EndReason, now: float) -> StaffSession | None:
    """The login after a no; a node that waits for the decision has to be told."""
    ended = moved(session, Happening.REFUSED, now)
    waited = session.state is _STATE.PENDING
    return None if ended is None else replace(ended, reason=reason, decided=waited)


def end_asked(
    session: StaffSession, reason: EndReason, text: str, by: str | None, now: float
) -> StaffSession | None:
    """The session after somebody asked for its end. A login that still waits is refused."""
    if session.state in (_STATE.ASKED, _STATE.PENDING):
        ended = refused(session, reason, now)
        return None if ended is None else replace(ended, ended_by=by)
    asked = moved(session, Happening.END_ASKED, now)
    if asked is None:
        return None
    return replace(asked, end_asked=now, end_reason=reason, end_text=text, ended_by=by)
