"""The documents of the session service's HTTP API: what sidecars, facilitators and operators send and get.

All are JSON over mutual TLS. Moments are Unix time in seconds. A reader ignores keys that it does not know.
The routes are in `hub.core.routes`; who may use which is decided by the role of the client's certificate.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Address
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

Text = Annotated[str, Field(max_length=1000)]
Identifier = Annotated[str, Field(min_length=1, max_length=200)]
Count = Annotated[int, Field(ge=0)]


class ApiDocument(BaseModel):
    """One of the API's documents; it does not change once it is made."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class StaffSessionState(StrEnum):
    """Where a session stands; only `asked`, `pending` and `allowed` may still be refused."""

    ASKED = "asked"  # the row is written, the answer is not
    PENDING = "pending"  # a code, an approval or a browser is waited for
    ALLOWED = "allowed"  # the sidecar was told yes; the client is not up yet
    UP = "up"
    ENDING = "ending"  # somebody asked for its end; its node has not confirmed it
    STALE = "stale"  # its node is silent; it still holds its address
    REFUSED = "refused"
    ENDED = "ended"


class EndReason(StrEnum):
    """Why a session ended or a login was refused."""

    LEFT = "left"  # the client disconnected, or its node no longer names it
    ENDED_BY_ADMIN = "ended-by-admin"
    OFFBOARDED = "offboarded"  # the person is blocked, or not in the list of people any more
    EXPIRED = "expired"  # the session's longest time is over
    REPLACED = "replaced"  # the person's next login took its place
    LOST_WITH_NODE = "lost-with-node"  # OpenVPN on the node has restarted
    NODE_DRAINED = "node-drained"
    UNKNOWN_PERSON = "unknown-person"
    BLOCKED = "blocked"
    WRONG_CODE = "wrong-code"
    CHALLENGED = "challenged"  # the client comes again, with a code
    LOCKED = "locked"  # too many wrong codes
    TOO_MANY_LOGINS = "too-many-logins"
    DENIED = "denied"  # the person said no
    TIMEOUT = "timeout"  # nobody answered in time, or the client gave up
    NOT_OURS = "not-ours"  # a client that is up and that nobody has let in
    NO_ADDRESS = "no-address"
    METHOD_UNUSABLE = "method-unusable"  # no seed, no channel, or the client cannot do it


class Method(StrEnum):
    """How a person proves who it is, beside the certificate."""

    CERTIFICATE = "certificate"
    TOTP = "totp"
    NOTIFICATION = "notification"
    OIDC = "oidc"  # logs in at the identity provider, in a browser


# --- from a sidecar
# ----------------------------------------------------------------------------------------------------------


class FromNode(ApiDocument):
    """What each message of a sidecar begins with."""

    node: Identifier = Field(
        description="the sidecar's name: the CN of its certificate, or that and `:NAME` for one of several servers"
    )
    boot: Identifier = Field(
        description="names one run of the OpenVPN server; another text after each start of it"
    )


class ClientAddress(ApiDocument):
    """From where a client connects."""

    address: Identifier = Field(description="IP address without brackets")
    port: Annotated[int, Field(ge=0, le=65535)] = 0


class LoginRequest(FromNode):
    """A client's CONNECT or REAUTH. Sent again after a lost answer it gets the same answer."""

    sequence: Count = Field(
        description="grows with each login of this boot, also over restarts of the sidecar; nanoseconds of the clock "
        "will do"
    )
    client_id: Count = Field(description="OpenVPN's CID, which counts from 0 in each boot")
    key_id: Count = Field(description="OpenVPN's KID")
    renewal: bool = Field(False, description="REAUTH of a session that is up")
    session: Identifier | None = Field(None, description="the session that is renewed, if it is known")
    person: Identifier = Field(description="the CN of the client's certificate")
    certificate: Identifier = Field(description="its serial number, as OpenVPN writes it in hexadecimal")
    client: ClientAddress
    claims: dict[Identifier, Text] = Field(
        default_factory=dict, description="IV_* and UV_*: what the client says of itself"
    )
    username: Text | None = None
    password: SecretStr | None = Field(
        None, description="as OpenVPN gives it: a code, or `CRV1::STATE::CODE`"
    )
    token: Literal["none", "valid", "expired", "invalid"] = Field(
        "none", description="what OpenVPN says of the client's auth-token (`session_state`)"
    )
    understands: frozenset[Literal["crv1", "crtext", "webauth", "temp"]] = Field(
        frozenset(),
        description="ways to ask that fit this client: IV_SSO, IV_PROTO, and `crv1` if it sent a user name",
    )


class ChallengeAnswer(FromNode):
    """What a person typed: OpenVPN's CR_RESPONSE."""

    session: Identifier
    key_id: Count
    response: SecretStr = Field(description="base64, as OpenVPN gives it")


class Allowed(ApiDocument):
    """The client may come in, with this address and no other."""

    decision: Literal["allow"] = "allow"
    session: Identifier
    address: IPv4Address = Field(description="for ifconfig-push")
    netmask: IPv4Address
    groups: tuple[str, ...] = ()
    method: Method = Method.CERTIFICATE
    until: float | None = Field(None, description="when the service will ask for its end at the latest")


class Denied(ApiDocument):
    """The client may not come in."""

    decision: Literal["deny"] = "deny"
    session: Identifier | None = None
    reason: EndReason
    text: str = Field(description="for the person; a sentence without secrets")
    elsewhere: bool = Field(False, description="another node, or this one in `backoff` seconds, may say yes")
    backoff: Count = Field(0, description="seconds")


class Challenged(ApiDocument):
    """The client must ask the person for a text."""

    decision: Literal["challenge"] = "challenge"
    session: Identifier
    by: Literal["crv1", "crtext"] = Field(
        description="crv1: deny with `CRV1:FLAGS:STATE:BASE64USER:TEXT`, the client comes again; crtext: client-pending-auth"
    )
    state: str = Field("", description="of crv1: single use, for this person and boot")
    echo: bool = Field(True, description="the text may be shown while it is typed (flag E)")
    text: str
    timeout: Count = Field(description="seconds")


class Waiting(ApiDocument):
    """Somebody must approve; the decision comes with a heartbeat's answer."""

    decision: Literal["wait"] = "wait"
    session: Identifier
    timeout: Count = Field(description="seconds")
    link: str | None = Field(
        None, description="secret; for `WEB_AUTH::LINK`, if the person's own client should open it"
    )
    text: str = Field(
        "",
        description="with the number to match, for `CR_TEXT::TEXT` (no R: nothing is typed); empty: show nothing",
    )


LoginAnswer = Annotated[Allowed | Denied | Challenged | Waiting, Field(discriminator="decision")]


class SessionUp(FromNode):
    """ESTABLISHED: the client has its address."""

    session: Identifier
    address: IPv4Address


class SessionEnd(ApiDocument):
    """One session that has ended on its node."""

    session: Identifier
    reason: EndReason = EndReason.LEFT
    received_bytes: Count | None = Field(None, description="from the client")
    sent_bytes: Count | None = Field(None, description="to the client")


class SessionEnds(FromNode):
    """DISCONNECTs. May be sent again: a session ends once."""

    ended: tuple[SessionEnd, ...]


class UnknownClient(ApiDocument):
    """A client that is up on the server although the sidecar does not know its session."""

    client_id: Count
    person: Identifier
    certificate: str = ""
    address: IPv4Address | None = None
    client: ClientAddress | None = None


class Heartbeat(FromNode):
    """All sessions and waiting logins of a node. What is not named here is over."""

    sequence: Count = Field(
        description="that of the last login sent before this list was made: later ones are not missed"
    )
    sessions: tuple[Identifier, ...] = Field(description="up, allowed and waiting ones")
    waiting: frozenset[Identifier] = Field(
        frozenset(), description="of these, those that are not up yet; they may be decided in the answer"
    )
    ending: frozenset[Identifier] = Field(
        frozenset(), description="of these, those whose end or decision is in progress: no need to repeat it"
    )
    unknown: tuple[UnknownClient, ...] = ()
    bytes: dict[Identifier, tuple[Count, Count]] = Field(
        default_factory=dict, description="received from and sent to the client; once a minute is enough"
    )
    draining: bool = False
    version: Text = Field("", description="of sidecar and OpenVPN, for people")
    wait: Annotated[float, Field(ge=0, le=60)] = Field(
        0.0, description="seconds for which the answer may be held back while there is nothing to do"
    )


class EndOrder(ApiDocument):
    """A session that the node must end."""

    session: Identifier
    client_id: Count
    person: Identifier
    reason: EndReason
    text: str = Field(description="for the person (HALT)")


class Decision(ApiDocument):
    """How a login that waited was decided."""

    session: Identifier
    client_id: Count
    key_id: Count
    answer: LoginAnswer


class Adopted(ApiDocument):
    """The session that an unknown client has from now on."""

    client_id: Count
    session: Identifier


class HeartbeatAnswer(ApiDocument):
    """What the node must do."""

    end: tuple[EndOrder, ...] = ()
    decided: tuple[Decision, ...] = ()
    adopted: tuple[Adopted, ...] = ()
    closed: Count = Field(0, description="sessions that were open and that the heartbeat did not name")
    unknown: tuple[Identifier, ...] = Field(
        (), description="named sessions that are not open here: name their clients in `unknown` next time"
    )


# --- from a facilitator
# ----------------------------------------------------------------------------------------------------------


class AddressEntry(ApiDocument):
    """Who has or had an address, and when."""

    revision: Count
    address: IPv4Address
    person: Identifier
    groups: tuple[str, ...] = ()
    session: Identifier
    node: Identifier
    client: str = Field("", description="what the client says of itself, such as `OpenVPN 2.6.14 linux`")
    since: float
    ended: float | None = Field(None, description="absent: it holds the address")
    reason: EndReason | None = Field(None, description="why it ended, or why its end was ordered")
    stale: bool = Field(False, description="its node is silent")


class AddressBook(ApiDocument):
    """`complete`: all sessions that hold an address; else those that changed after the revision asked for."""

    revision: Count
    complete: bool
    entries: tuple[AddressEntry, ...]
    time: float = Field(description="the service's clock, from which the age of the address book is computed")


# --- from an operator
# ----------------------------------------------------------------------------------------------------------


class SessionView(ApiDocument):
    """A session as operators see it."""

    session: Identifier
    person: Identifier
    groups: tuple[str, ...] = ()
    address: IPv4Address | None = None
    node: Identifier
    certificate: str = ""
    client: ClientAddress
    claims: dict[str, str] = Field(default_factory=dict)
    method: Method
    state: StaffSessionState
    asked: float
    up: float | None = None
    ended: float | None = None
    reason: EndReason | None = None
    ended_by: str | None = None
    until: float | None = None
    received_bytes: Count = 0
    sent_bytes: Count = 0


class SessionList(ApiDocument):
    """Sessions, the newest first."""

    sessions: tuple[SessionView, ...]
    time: float


class NodeView(ApiDocument):
    """An OpenVPN server as the service sees it."""

    node: Identifier
    boot: Identifier
    seen: float
    silent: bool
    draining: bool
    version: str = ""
    sessions: Count


class NodeList(ApiDocument):
    """All nodes."""

    nodes: tuple[NodeView, ...]
    time: float


class EndCommand(ApiDocument):
    """End sessions: of a person, with an address, or one. Exactly one of the three is given."""

    person: Identifier | None = None
    address: IPv4Address | None = None
    session: Identifier | None = None
    text: Text = Field("your session was ended by an administrator", description="for the person")


class BlockCommand(ApiDocument):
    """No login of this person from now on, and the end of all its sessions; `blocked: false`: as before."""

    person: Identifier
    blocked: bool = True
    until: float | None = Field(None, description="absent: until it is taken back")
    text: Text = Field("your access has ended", description="for the person")


class CommandAnswer(ApiDocument):
    """What the command met."""

    sessions: tuple[Identifier, ...] = Field(description="those whose end was ordered")


class EventView(ApiDocument):
    """One entry of the append-only trail."""

    revision: Count
    at: float
    what: str
    session: Identifier | None = None
    person: Identifier | None = None
    detail: dict[str, str | float | None] = Field(default_factory=dict)


class EventList(ApiDocument):
    """Events in order; `revision` is where the next question continues."""

    revision: Count
    events: tuple[EventView, ...]


class ApiRefusal(ApiDocument):
    """The body of each answer with a status of 400 or above."""

    error: str
