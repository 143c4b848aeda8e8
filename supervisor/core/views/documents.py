"""The JSON documents that the daemon answers with, each typed once: those who make them, those who read them
and the published schema (docs/api.schema.json, docs/openapi.json) use these types.

A key that has no value is null; only what is `NotRequired` may be missing. The string below a key is its
description in the schema. `Annotated` adds what the schema needs beyond the type: the `Values` that a text
takes, or its `Format`. This module imports nothing of ours, so that a command can use it for free.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple, NotRequired, TypedDict


class Values(NamedTuple):
    """The texts that are possible."""

    texts: tuple[str, ...]


class Format(NamedTuple):
    """A `format` of JSON Schema."""

    name: str


Timestamp = Annotated[str, Format("date-time")]  # ISO 8601 in UTC, to the second
PhaseName = Annotated[str, Values(("stopped", "starting", "up", "backoff", "stopping", "failed"))]
HealthName = Annotated[str, Values(("unknown", "healthy", "unhealthy"))]
WantName = Annotated[str, Values(("up", "down"))]
LegName = Annotated[str, Values(("uplink", "endpoint", "tunnel", "destination"))]
EndpointName = Annotated[str, Values(("unknown", "answers", "silent"))]
SecondSessionName = Annotated[str, Values(("unknown", "allowed", "replaces", "ends", "refused"))]
QuestionName = Annotated[str, Values(("code", "text", "approval"))]
RecoveryName = Annotated[str, Values(("in-place", "resume", "login", "next-remote"))]
StandingName = Annotated[str, Values(("up", "degraded", "down", "unwatched", "stopped"))]
SeverityName = Annotated[str, Values(("critical", "error", "warning", "info"))]
OutcomeName = Annotated[str, Values(("carried", "down", "blocked", "refused", "nothing", "person"))]
CheckName = Annotated[str, Values(("ok", "warning", "problem"))]
MemberStandingName = Annotated[str, Values(("carries", "ready", "drains", "down", "waits", "stopped"))]


# --- status
# ----------------------------------------------------------------------------------------------------------


class ConditionEntry(TypedDict):
    """Something that is wrong now."""

    name: str
    text: str
    severity: SeverityName
    incident: bool
    """An incident of its own is opened for it; otherwise other incidents cover it."""


class DrainEntry(TypedDict):
    """A tunnel or session that takes no new flows and ends when the last one is over."""

    reason: str
    flows_left: int | None
    """Null until the flows have been counted."""
    longest_idle_seconds: float
    until: Timestamp
    """It ends then at the latest."""


class QuestionEntry(TypedDict):
    """A question of the remote gateway that only a person can answer (`facilitator answer`)."""

    wanted: QuestionName
    text: str
    until: Timestamp


class SessionEntry(TypedDict):
    """One run of a tunnel's client."""

    id: str
    pid: int | None
    device: str | None
    """Name of the network interface; null for a proxy such as sshuttle."""
    port: int | None
    """Local TCP port of a proxy."""
    address: str | None
    """The inner address of this end."""
    peer: str | None
    name_servers: list[str]
    """Those that the remote gateway has pushed."""
    path_mtu: int | None
    started: Timestamp


class OtherSessionEntry(SessionEntry):
    """The second session of a tunnel while one replaces the other (make-before-break)."""

    role: Annotated[str, Values(("coming", "leaving"))]
    """`coming`: it will carry the traffic; `leaving`: it finishes its flows."""
    phase: PhaseName
    health: HealthName
    drain: DrainEntry | None


class TargetEntry(TypedDict):
    """A probe target of a tunnel."""

    target: str
    destination: str | None
    """The network that it lies in, as staff address it; null: in none of the tunnel's destinations."""
    answers: bool | None
    """In the last whole round; null: none has shown it yet."""
    silent_since: Timestamp | None


class LockEntry(TypedDict):
    """The lock of an exclusive tunnel's account."""

    account: str
    engine: bool
    """The lock engine answers this member."""
    held: bool
    token: int | None
    holder: str | None
    text: str | None
    """What the tunnel waits for; null: it holds the lock."""


class AnnouncedEntry(TypedDict):
    """A destination that routers are told of (`fleet.announce.bgp`)."""

    destination: str
    metric: int
    """The lower, the better; 5000: it drains, 9000: it does not work here."""
    since: Timestamp


class TunnelStatus(TypedDict):
    """One tunnel now."""

    name: str
    kind: str
    description: str
    phase: PhaseName
    health: HealthName
    want: WantName
    leg: LegName | None
    """The part of the path that is dead, as far as that is known."""
    degraded: str | None
    """What is wrong with a tunnel that is degraded."""
    endpoint: EndpointName
    """Whether the remote gateway answers when it is asked outside of the tunnel."""
    destinations: list[str]
    """Configured networks, as staff address them."""
    carries: list[str]
    """Those of them that are routed through this tunnel now."""
    announced: list[AnnouncedEntry]
    """Those that it carries and that are announced to routers."""
    drain: DrainEntry | None
    reason: str
    """Of the last change of phase or health."""
    since: Timestamp
    session: SessionEntry | None
    other_session: OtherSessionEntry | None
    second_session: SecondSessionName
    """What the remote gateway does with a session when the same account opens a second one."""
    planned_reconnect: Timestamp | None
    learned_limit_seconds: float | None
    """After how long the remote gateway ends a session, where that has been observed."""
    probe_rtt_seconds: float | None
    targets: list[TargetEntry]
    """Of its probes, in the order of the configuration."""
    reconnects: int
    next_attempt: Timestamp | None
    asks: QuestionEntry | None
    waits_for_code: Timestamp | None
    """When its client gets the next unused one-time password, which it waits for."""
    lock: NotRequired[LockEntry | None]
    """Of an exclusive tunnel; null: it needs none."""
    not_retried: str | None
    """Why a tunnel that has failed is not tried again by itself."""
    last_error: str | None
    """Of a tunnel that works: the last one. Else what explains that it does not work; null: nothing does."""
    runbook_url: NotRequired[str | None]
    """The page about why it does not work."""


class HubEntry(TypedDict):
    """The source that says which person has which address."""

    source: str
    """`sessions`, `openvpn-status` or `pritunl`."""
    sessions: int
    """Sessions of people that hold an address now, as far as is known."""
    people: int
    age_seconds: float | None
    """Time since the source was last heard of; null: never."""
    stale: bool
    """Rules by person are closed, because that is too long ago."""
    problem: str | None
    """Why the source cannot be read; null: it can."""
    skipped: int
    """Entries of its last answer that could not be used."""


class DaemonStatus(TypedDict):
    """What the status document and the status page say of the daemon itself."""

    facilitator: str
    """Its name in the configuration."""
    version: str
    pid: int
    started: Timestamp
    upgrades: int
    """How often this process has changed its program (`facilitator upgrade`)."""
    last_end: EndEntry | None
    """Why the last daemon ended; null: it crashed, or there was none."""
    closed_since: Timestamp | None
    """Since when no destination is reached unencrypted, `facilitator close` included; null: not known."""
    draining: bool
    names: NotRequired[NameServiceEntry | None]
    """The name service; null: it does not run."""
    conditions: list[ConditionEntry]
    hub: HubEntry | None
    """Null: the configuration names none."""


class EndEntry(TypedDict):
    """Why a daemon ended, as its supervisor (systemd, Nomad) said."""

    reason: str
    """`stop drain shutdown restart update lost`, or `unknown`: the supervisor did not answer."""
    text: str
    at: Timestamp


class NameServiceEntry(TypedDict):
    """What the name service does at the moment."""

    questions_per_second: float
    failures_per_second: float
    """Answers SERVFAIL."""


class StatusDocument(DaemonStatus):
    """`GET /api/v1/status`, and the answer to `POST /api/v1/drain`."""

    tunnels: list[TunnelStatus]


# --- status page and server-sent events
# ----------------------------------------------------------------------------------------------------------


class DayEntry(TypedDict):
    """Availability over the last 24 hours."""

    ratio: float | None
    """Availability while the tunnel was meant to be up, 0 to 1; null: it never was, or observed for too
    short a time."""
    since: NotRequired[str | None]
    """Since when it is observed, if that is less than the 24 hours."""
    last_day: list[StandingName | None]
    """The worst of each quarter of an hour, oldest first; null: unknown."""


class MeasuresEntry(TypedDict):
    """The latest measurements of a tunnel."""

    seconds: float
    """The time that `rtts` covers when it is full."""
    rtts: list[float | None]
    """Round trip times of the probes in seconds, oldest first; null: no answer."""
    received_per_second: float | None
    sent_per_second: float | None


class FailureEntry(TypedDict):
    """Why a session ended."""

    at: Timestamp
    reason: str
    text: str


class TunnelOnPage(TunnelStatus):
    """A tunnel as the events describe it; its measurements are sent on their own."""

    availability: DayEntry
    deaths: list[FailureEntry]
    """Why the last sessions ended, the latest first."""


class OpenIncidentEntry(TypedDict):
    """An incident that is open."""

    name: str
    severity: SeverityName
    summary: str
    since: Timestamp


class StatusPageDocument(DaemonStatus):
    """Everything that the status page shows; no answer by itself, but what it and the events are made of."""

    now: float
    incidents: list[OpenIncidentEntry]
    tunnels: list[TunnelOnPage]
    measures: dict[str, MeasuresEntry]
    """By tunnel."""
    fleet: FleetDocument | None
    """Null: it is no member of one."""


class HeadlineEntry(TypedDict):
    """The daemon as the events describe it: the number of tunnels by verdict, and what is wrong."""

    facilitator: str
    version: str
    started: Timestamp
    closed_since: Timestamp | None
    draining: bool
    conditions: list[ConditionEntry]
    hub: str | None
    """How many people the hub knows, in words; null: there is none."""
    incidents: list[OpenIncidentEntry]
    fleet: FleetDocument | None
    """Null: it is no member of one. Who follows the orders is not in it."""
    count: int
    bad: int
    wait: int
    good: int
    off: int


class StatusEvent(TypedDict):
    """`data` of an event of `GET /api/v1/events`: everything in a `snapshot`, in a `change` what differs."""

    now: float
    """Unix time in seconds."""
    facilitator: NotRequired[HeadlineEntry]
    tunnels: dict[str, TunnelOnPage]
    measures: dict[str, MeasuresEntry]
    gone: list[str]
    """Tunnels that are not configured any more."""


class StatusPageEvent(TypedDict):
    """`data` of an event of `GET /api/v1/events?as=html`."""

    now: float
    """Unix time in seconds."""
    pieces: dict[str, str]
    """HTML of the elements that differ, by their id."""
    gone: list[str]
    """Ids of elements that are not there any more."""


# --- fleet
# ----------------------------------------------------------------------------------------------------------


class FleetMemberEntry(TypedDict):
    """One facilitator of a fleet."""

    name: str
    up: bool
    """It has published its status, or it answers."""
    version: str | None
    drained: bool
    """It takes no new flows."""
    silent_since: Timestamp | None
    """When its status went, where the one that answers has seen it; null: it is up, or that is not known."""
    problem: str | None
    """Why nothing is known of it."""


class MemberTunnelEntry(TypedDict):
    """One tunnel on one member."""

    standing: MemberStandingName
    locked: bool
    """The member holds the lock of the tunnel's account."""


class FleetTunnelEntry(TypedDict):
    """One tunnel of the fleet."""

    name: str
    members: dict[str, MemberTunnelEntry]
    """By the names of the members that have it, and are up."""


class FleetAcknowledgementEntry(TypedDict):
    """What a member says about an order."""

    member: str
    at: float
    """Unix time in seconds at which it had taken the order over."""
    done: bool
    """The order is carried out, not only in progress."""
    text: str


class FleetOrderEntry(TypedDict):
    """An order that holds for all members until it is lifted."""

    id: str
    kind: Annotated[str, Values(("stop", "drain", "end-user"))]
    subject: str
    """Name of a tunnel, name of a member, or address."""
    by: str
    why: str
    given: float
    """Unix time in seconds."""
    acknowledged: list[FleetAcknowledgementEntry]
    missing: list[str]
    """Members that have not acknowledged it."""


class FleetDocument(TypedDict):
    """`GET /api/v1/fleet`: all members of a fleet."""

    fleet: str
    member: str | None
    """The one that answers; null: a command that has asked the lock engine itself."""
    source: Annotated[str, Values(("engine", "members", "none"))]
    """Where it comes from: the lock engine, the members' own HTTP servers, or this member alone."""
    problems: list[str]
    """Why something is missing or may be old."""
    members: list[FleetMemberEntry]
    tunnels: list[FleetTunnelEntry]
    orders: list[FleetOrderEntry]


class FleetOrderDocument(TypedDict):
    """The answer to `POST /api/v1/fleet/orders`."""

    order: FleetOrderEntry
    lifted: bool
    """It was removed; `missing` are the members that still follow it."""
    seconds: float
    """Until the last member had answered, or until now."""


# --- history
# ----------------------------------------------------------------------------------------------------------


class WindowEntry(TypedDict):
    """Availability of a tunnel over one window of time."""

    ratio: float | None
    """Availability while the tunnel was meant to be up, 0 to 1; null: it never was, or nothing is known."""
    enough: NotRequired[bool]
    """It was observed for long enough that the ratio says something: half of the window, or six hours."""
    since: NotRequired[Timestamp | None]
    """Since when it is observed, if that is less than the window."""
    up_seconds: float
    degraded_seconds: float
    down_seconds: float
    unwatched_seconds: float
    """No daemon ran."""
    stopped_seconds: float
    """Somebody had stopped it; counts nowhere."""
    failures: int
    healed: int
    """Failures that ended without a person."""
    by_hand: int
    mttr_seconds: float | None
    mtbf_seconds: float | None
    deaths: dict[str, dict[str, int]]
    """Sessions that ended, by class (`asked`, `transient`, `login`, `permanent`, `daemon`) and reason."""


class OutageEntry(TypedDict):
    """A time without service."""

    began: Timestamp
    ended: Timestamp | None
    seconds: float
    reason: str
    planned: bool
    by_hand: bool


class TunnelHistoryEntry(TypedDict):
    """Availability of one tunnel."""

    name: str
    kind: str | None
    """Null: not configured any more."""
    configured: bool
    availability: dict[str, WindowEntry]
    """By window: `1h`, `24h`, `7d`, `30d`."""
    outages: list[OutageEntry]
    last_day: list[StandingName | None]
    """The worst of each half hour, oldest first; null: unknown."""


class SessionRecord(TypedDict):
    """One session, the latest first."""

    tunnel: str
    id: str
    kind: str
    device: str | None
    port: int | None
    address: str | None
    peer: str | None
    started: Timestamp
    connected: Timestamp | None
    ended: Timestamp | None
    lasted: float | None
    """Seconds."""
    reason: str | None
    text: str | None
    received: int | None
    """Bytes."""
    sent: int | None
    """Bytes."""
    flows: int | None


class TransitionRecord(TypedDict):
    """One change of phase or health, the latest first."""

    at: Timestamp
    tunnel: str
    session: int
    before: PhaseName
    after: PhaseName
    health: HealthName
    standing: StandingName
    reason: str
    text: str
    lasted: float
    """Seconds that the state before had lasted."""
    rung: RecoveryName | None
    """The recovery that began with it."""


class IncidentRecord(TypedDict):
    """One incident, the latest first."""

    name: str
    severity: SeverityName
    summary: str
    opened: Timestamp
    closed: Timestamp | None


class HistoryDocument(TypedDict):
    """`GET /api/v1/history`."""

    facilitator: str
    problem: str | None
    """Why something is missing here."""
    tunnels: list[TunnelHistoryEntry]
    sessions: list[SessionRecord]
    transitions: list[TransitionRecord]
    incidents: list[IncidentRecord]


# --- why, plan
# ----------------------------------------------------------------------------------------------------------


class WhyStepEntry(TypedDict):
    """One check on the path of a packet."""

    name: str
    state: CheckName
    text: str


# `from` cannot be written as a key of a class.
_WhySender = TypedDict("_WhySender", {"from": str | None})


class WhyDocument(_WhySender):
    """`GET /api/v1/why`: what would become of a packet now, check by check."""

    address: str
    port: int | None
    outcome: OutcomeName
    verdict: str
    tunnel: str | None
    destination: str | None
    staff_address: str | None
    """The address that staff use."""
    real_address: str | None
    """The address at the remote site, where it is presented as another one."""
    steps: list[WhyStepEntry]


class PlanDocument(TypedDict):
    """`GET /api/v1/plan`: what the kernel should hold, one item a line, and how it differs now."""

    lanes: dict[str, str]
    """Tunnels by number: that of the packet mark, connection mark and routing table."""
    wanted: list[str]
    changes: list[str]


# --- alerts
# ----------------------------------------------------------------------------------------------------------


class WaitingMessageEntry(TypedDict):
    """A message that was not delivered yet."""

    action: Annotated[str, Values(("trigger", "resolve"))]
    attempts: int
    error: str


class ReceiverIncidentEntry(TypedDict):
    """One incident at one receiver."""

    name: str
    dedup_key: str
    since: Timestamp
    wanted: Annotated[str, Values(("open", "closed"))]
    there: Annotated[str, Values(("closed", "open", "unknown"))]
    """What the receiver has, as far as it is known."""
    waits: WaitingMessageEntry | None


class DeadLetterEntry(TypedDict):
    """A message that the receiver refused for good."""

    at: Timestamp
    dedup_key: str
    action: str
    error: str


class ReceiverEntry(TypedDict):
    """PagerDuty or the webhook."""

    name: str
    configured: bool
    store_usable: bool
    """False: what waits would be lost in a crash."""
    pending: int
    oldest: Timestamp | None
    last_error: str | None
    incidents: list[ReceiverIncidentEntry]
    refused: list[DeadLetterEntry]


class AlertsDocument(TypedDict):
    """`GET /api/v1/alerts`."""

    facilitator: str
    receivers: list[ReceiverEntry]


class TriedReceiverEntry(TypedDict):
    """What one receiver answered to a test incident."""

    name: str
    taken: bool
    trigger: str
    resolve: str | None


class AlertTestDocument(TypedDict):
    """`POST /api/v1/alerts/test`."""

    receivers: list[TriedReceiverEntry]


# --- audit
# ----------------------------------------------------------------------------------------------------------


class SourceTotalsEntry(TypedDict):
    """What one address of staff did through one tunnel since the audit began."""

    tunnel: str
    source: str
    """`others`: the addresses beyond those that are counted one by one."""
    person: str | None
    """Null: not known, or the audit names no people (audit.people)."""
    flows: int
    open: int
    sent_bytes: int
    """Of flows that are closed."""
    received_bytes: int
    """Of flows that are closed."""


class AuditDocument(TypedDict):
    """`GET /api/v1/audit`."""

    file: str
    problem: str | None
    events: dict[str, int]
    """Lines written, by event."""
    lost: int
    totals: list[SourceTotalsEntry]


# --- orders
# ----------------------------------------------------------------------------------------------------------


class QuestionDocument(TypedDict):
    """`GET /api/v1/tunnels/{tunnel}/question`."""

    text: str | None
    """Null: nothing is asked."""


class ReloadDocument(TypedDict):
    """`POST /api/v1/reload`."""

    done: list[str]
    errors: list[str]
    problems: list[str]
    """Of tunnels that could not start with their files: tunnel, file, line, sentence. One that is up keeps
    its earlier settings until its files can be used; everything else was applied."""


class HandOverDocument(TypedDict):
    """`POST /api/v1/hand-over`: the daemon ends, and leaves everything to the one that asks."""

    pid: int
    """Of the daemon that ends."""


class UpgradeDocument(TypedDict):
    """`POST /api/v1/upgrade`, where it failed; when it succeeds the connection ends without an answer."""

    errors: list[str]
