"""What the sidecar knows of the clients of its OpenVPN server, and what it wants done. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from hub.core.api import EndReason
from hub.core.openvpn.clients import ClientFacts


class ClientPhase(enum.StrEnum):
    """Where a client of the server is."""

    ASKED = "asked"  # the session service was asked and has not answered
    WAITING = "waiting"  # it has to answer or somebody has to approve; the server keeps it so long
    ALLOWED = "allowed"  # the server was told to let it in
    UP = "up"
    UNKNOWN = "unknown"  # up on the server, but not in our journal: the service is to say whose session it is
    ENDING = "ending"  # it was told to end


@dataclass(frozen=True, slots=True)
class ServerClient:
    """One client of the server, from the question about it to its end. Holds no secret: it is journaled."""

    cid: int
    kid: int
    person: str
    digest: str  # of its certificate; empty: unknown
    real: str  # IP:port
    flags: int = 0  # IV_PROTO
    session: str = ""  # id that the service gave; empty while it is asked
    address: str = ""
    netmask: str = ""
    phase: ClientPhase = ClientPhase.ASKED
    ending: EndReason | None = None  # why it was told to end

    @property
    def lives(self) -> bool:
        """It has a session that the service counts as open."""
        return bool(self.session)

    @property
    def established(self) -> bool:
        """It was let in and not told to end."""
        return self.phase in (ClientPhase.ALLOWED, ClientPhase.UP)


# --- what is to be done ---


@dataclass(frozen=True, slots=True)
class Send:
    """Send this command to the server."""

    command: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AskLogin:
    """Ask the session service about a login or (`session` given) a renegotiation."""

    cid: int
    kid: int
    facts: ClientFacts
    session: str = ""


@dataclass(frozen=True, slots=True)
class AskAnswer:
    """Ask the session service about what a person typed, in base64."""

    cid: int
    kid: int
    session: str
    response: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReportUp:
    """Tell the service: the client has its address."""

    session: str
    address: str


@dataclass(frozen=True, slots=True)
class ReportEnd:
    """Tell the service: the client is gone. `received` and `sent` are bytes, seen from the server."""

    session: str
    reason: EndReason
    received: int = 0
    sent: int = 0


@dataclass(frozen=True, slots=True)
class CutLater:
    """After so many seconds: `cut` this client if it is still there."""

    seconds: float
    cid: int
    session: str


@dataclass(frozen=True, slots=True)
class StopLater:
    """After so many seconds: stop the server, its drain is over."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Remember:
    """Write the client into the journal."""

    client: ServerClient


@dataclass(frozen=True, slots=True)
class Forget:
    """The client is gone: strike it from the journal."""

    cid: int


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the sidecar's log. Its fields hold nothing secret."""

    what: str
    fields: Mapping[str, str | int] = field(default_factory=dict)


Report = ReportUp | ReportEnd
Effect = Send | AskLogin | AskAnswer | Report | CutLater | StopLater | Remember | Forget | Note
