"""The state of one tunnel and its sessions."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import NamedTuple

from tunnels.base import Connected, IPNetwork, Question, Reason, Tunnel
from tunnels.networks import IPAddress


class Want(enum.StrEnum):
    """What an operator or the configuration asks for."""

    UP = "up"
    DOWN = "down"


class Phase(enum.StrEnum):
    """Where a tunnel is in the life cycle of its sessions."""

    STOPPED = "stopped"  # asked to be down
    STARTING = "starting"  # the client runs and has not come up
    UP = "up"  # the client says that it is connected
    BACKOFF = "backoff"  # waits before the next attempt
    STOPPING = "stopping"  # the client was told to end
    FAILED = "failed"  # waits for an operator, or for a changed secret or configuration


class Health(enum.StrEnum):
    """Whether traffic passes."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class Leg(enum.StrEnum):
    """A part of the way from here to a destination."""

    UPLINK = "uplink"  # this host's own way out
    ENDPOINT = "endpoint"  # from there to the remote gateway
    TUNNEL = "tunnel"  # the session with it
    DESTINATION = "destination"  # what lies behind it


class Proof(enum.StrEnum):
    """What shows that a tunnel carries packets although no probe target answers."""

    ANSWERED = "answered"  # something inside the tunnel answered us: both directions work
    RECEIVED = "received"  # packets came out of it: one direction works, most likely both
    PROTOCOL = "protocol"  # the gateway's own packets came, which are no user's: one direction works
    REPEATED = "repeated"  # a target answered when it was asked again: the round was lost on the way
    TRAFFIC = "traffic"  # packets came back to staff from the very destinations that the probes are about
    AGREED = "agreed"  # the gateway's own packets answered those of our client: both directions work


class Reach(enum.StrEnum):
    """Whether the remote gateway answers when it is asked outside the tunnel."""

    UNKNOWN = "unknown"  # many never answer, so silence alone says nothing
    ANSWERS = "answers"
    SILENT = "silent"  # it does not, although it did before, or although it must answer every client


class RecoveryStep(enum.StrEnum):
    """How far a recovery goes, from the cheapest step to the most expensive one."""

    IN_PLACE = "in-place"  # the running client reconnects
    RESUME = "resume"  # a new client continues the session at the remote gateway, without a login
    LOGIN = "login"  # a new client logs in
    NEXT_REMOTE = "next-remote"  # a new client logs in at the next of the configured servers


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a session ended, or could not begin."""

    reason: Reason
    text: str
    at: float  # monotonic seconds


@dataclass(frozen=True, slots=True)
class Asking:
    """A question of the remote gateway that waits for a person to answer."""

    question: Question
    until: float  # monotonic seconds


@dataclass(frozen=True, slots=True)
class Session:
    """Facts about one run of a tunnel's client. `number` only grows and fences off events of earlier runs."""

    number: int
    id: str = ""  # unique over restarts of the daemon
    pid: int | None = None
    device: str | None = None  # name of its network interface
    port: int | None = None  # local TCP port, where a proxy carries the lane
    started: float = 0.0  # monotonic seconds
    connected: float | None = None  # monotonic seconds
    address: str | None = None  # ours inside the tunnel, IPv4
    peer: str | None = None  # address of the remote gateway
    pushed: tuple[IPNetwork, ...] = ()  # routes that the remote gateway pushed
    agreed: tuple[IPNetwork, ...] = ()  # the only networks that the remote gateway carries; empty: any
    path_mtu: int | None = None  # bytes of the largest packet that passes; inherited until it is measured
    expires: float | None = None  # monotonic seconds: when the remote gateway will end it, if it says so
    resumed: bool = False  # it continues an earlier session without a login
    renewed: bool = False  # it was told to reconnect in place, and no probe was answered since
    slot: int = 0  # 0 or 1; each slot has its own lane, interface and directory
    address6: str | None = None  # ours inside the tunnel, IPv6
    on_interface: bool = False  # the client itself puts these addresses on the interface
    link_mtu: int | None = None  # bytes: the MTU that the interface must have
    name_servers: tuple[IPAddress, ...] = ()  # that the remote gateway pushed

    @property
    def assigned(self) -> Iterator[IPAddress]:
        """The addresses that the remote gateway has assigned; what is no address is left out."""
        for text in (self.address, self.address6):
            with contextlib.suppress(ValueError):
                yield ip_address(text or "")


def connected(session: Session, what: Connected, now: float, *, again: bool) -> Session:
    """The session with what its client reports on connecting. A client that reports it `again` while
    connected need not repeat everything.
    """
    known = session if again else Session(session.number)
    given = (what.address, what.address6)
    addresses = given if any(given) else (known.address, known.address6)
    return replace(
        session,
        address=addresses[0],
        address6=addresses[1],
        on_interface=what.on_interface,
        link_mtu=what.mtu or known.link_mtu,
        peer=what.peer or known.peer,
        pushed=what.routes or known.pushed,
        agreed=what.agreed or known.agreed,
        name_servers=what.name_servers or known.name_servers,
        connected=session.connected or now,
        expires=known.expires if what.lasts is None else now + what.lasts,
    )


@dataclass(frozen=True, slots=True)
class Drain:
    """It takes no new flows, and ends when those that run are over, at the latest `until`."""

    reason: Reason  # STOPPED, SHUTDOWN, or PLANNED for a session that was replaced
    until: float  # monotonic seconds
    left: int | None = None  # flows that are not over; None: not counted yet
    idle: float = 0.0  # seconds for which the most silent of them has been silent
    # Monotonic seconds: until then it neither ends nor refuses new flows, so that the routers that were told
    # have turned to another member of the fleet before.
    not_before: float = 0.0

    @property
    def due(self) -> float:
        """When it ends without any further event (monotonic seconds)."""
        return self.until if self.left != 0 else min(self.until, self.not_before)


class Second(enum.StrEnum):
    """What becomes of a session when the same tunnel begins a second one at the remote gateway."""

    UNKNOWN = "unknown"  # it was never tried
    ALLOWED = "allowed"  # both live
    REPLACES = "replaces"  # the second one takes the place of the first, with its address
    ENDS = "ends"  # the second one ends the first, and has another address
    REFUSED = "refused"  # there is no second one


class Length(NamedTuple):
    """How long a session was connected."""

    seconds: float
    ended_there: bool  # the remote gateway ended it; else it could have lived longer


@dataclass(frozen=True, slots=True)
class Known:
    """What was learned about a remote gateway; it outlives the daemon."""

    second: Second = Second.UNKNOWN
    lengths: tuple[Length, ...] = ()  # of the last sessions, oldest first


@dataclass(frozen=True, slots=True)
class SilentTarget:
    """A probe target that did not answer in the last round."""

    target: str
    since: float  # monotonic seconds: the first such round in a row
    rounds: int  # in a row; no further than `core.session.probe_targets` counts


@dataclass(frozen=True, slots=True)
class ProtocolSigns:
    """What the client has said of the protocol since rounds go unanswered (`tunnels.base.SignOfLife`)."""

    within: float = 0.0  # seconds within which a gateway that lives sends the next packet
    answers: bool = False  # these packets are sent because of what we send
    until: float | None = None  # monotonic seconds: the last one counts until then; None: none was seen


@dataclass(frozen=True, slots=True)
class Liveness:
    """What the probe rounds of one session have shown."""

    misses: int = 0  # rounds without an answer, in a row
    rounds_without_traffic: int = 0  # of these, the last ones in which nothing came out of the tunnel
    rounds_without_reply: int = 0  # of these, the last ones in which nothing answered us inside the tunnel
    gave_up_on_hearsay: bool = False  # restarted once although packets came out of it; not a second time
    recent: tuple[float | None, ...] = ()  # the last rounds while healthy: seconds, None: no answer
    healthy_since: float | None = None  # monotonic seconds
    last_rtt: float | None = None  # seconds, of the last answered probe
    degraded: str | None = None  # what is bad about a tunnel that works
    full: str | None = None  # its client takes no more connections
    answered_at: float | None = None  # monotonic seconds: the last answered round
    missed_since: float | None = None  # monotonic seconds: the first of the missed rounds
    signs: ProtocolSigns | None = None  # of the protocol since then; None: the client has said nothing
    silent: tuple[SilentTarget, ...] | None = None  # of the tunnel's targets; None: no round has shown it yet
    # Monotonic seconds: probes were unanswered for so long that new flows go elsewhere if they can.
    suspected: float | None = None


@dataclass(frozen=True, slots=True)
class SessionState:
    """One run of a tunnel's client, until its process is gone. Moments are monotonic seconds."""

    session: Session
    phase: Phase = Phase.STARTING  # STARTING, UP or STOPPING
    reason: Reason = Reason.CONFIGURED  # of its last transition
    since: float = 0.0  # when its last transition was
    deadline: float | None = None  # when the next Tick is due
    health: Health = Health.UNKNOWN
    liveness: Liveness = Liveness()
    failure: Failure | None = None  # its last one
    asking: Asking | None = None  # what the remote gateway wants to know from a person
    # when the latest one-time code of its login is given to the client, or was; None: it needed none
    code_at: float | None = None
    resumable: bool = False  # the next session can continue this one without a login
    outdated: bool = False  # the inputs have changed since the client was started
    reconnect_by: float | None = None  # it should reconnect at a quiet moment, at the latest then
    recovery: RecoveryStep | None = None  # how it is tried to recover with this session
    drain: Drain | None = (
        None  # of a standby that was replaced (the tunnel's own drain is `TunnelState.drain`)
    )


@dataclass(frozen=True, slots=True)
class Idle:
    """What a tunnel does while no session is active. Moments are monotonic seconds."""

    phase: Phase = Phase.STOPPED  # STOPPED, BACKOFF or FAILED
    reason: Reason = Reason.CONFIGURED
    since: float = 0.0
    deadline: float | None = None  # of a BACKOFF: when the next attempt begins


@dataclass(frozen=True, slots=True)
class RetryState:
    """What ended sessions mean for the next one. Moments are monotonic seconds."""

    attempts: int = 1  # sessions since the last stable one, plus one; 0 right after a stable one
    refusals: int = 0  # logins that were refused, in a row
    unreached: int = 0  # attempts that no packet of the remote gateway answered, in a row
    suspicions: int = 0  # handshakes that were refused without a reason, in a row
    login_after: float = 0.0  # no login before this moment: the account was refused
    turn: float | None = None  # when it may connect, where several tunnels connect to one gateway
    failure: Failure | None = None  # of the last session that failed
    proven: bool = False  # it was connected with these very inputs
    resumable: bool = False  # the next session continues the last one without a login
    remote: int = 0  # which server is tried first; grows with each that was tried in vain
    recovery: RecoveryStep | None = None  # how far the next attempt goes
    gave_up_on_hearsay: bool = False  # see `Liveness`


@dataclass(frozen=True, slots=True)
class TunnelState:
    """What outlives the sessions of one tunnel, and the two slots for them. Moments are monotonic seconds.

    `standby` is empty except during a planned reconnect: it holds the session that is to replace the active
    one (`coming`), then the one that was replaced, until its flows are over.
    """

    want: Want = Want.UP
    active: SessionState | None = None  # new flows enter its lane
    standby: SessionState | None = None
    idle: Idle = Idle()  # while none is active
    last: Session = Session(0)  # the last active one that is over
    well_since: float = 0.0  # when the answer to `well` last changed
    sound_since: float = 0.0  # when the answer to `sound` last changed
    # New flows of staff have entered it since it is sound: the routers send them to this host.
    chosen_since: float | None = None
    retry: RetryState = RetryState()
    drain: Drain | None = None  # it ends when nothing goes through it any more; until then it reconnects
    endpoint: Reach = Reach.UNKNOWN  # the remote gateway
    endpoint_since: float = 0.0  # when that was seen
    endpoint_returned: bool = False  # it answers after a silence
    reconnects: int = 0  # sessions begun because an earlier one had ended, nobody having asked
    known: Known = Known()
    planned: float | None = None  # when the next planned reconnect begins
    next_number: int = 1  # of the next session, in whichever slot

    @property
    def current(self) -> SessionState | Idle:
        """The active session, or what the tunnel does without one."""
        return self.active or self.idle

    @property
    def phase(self) -> Phase:
        """Of the active session, else STOPPED, BACKOFF or FAILED."""
        return self.current.phase

    @property
    def reason(self) -> Reason:
        """Of the last transition."""
        return self.current.reason

    @property
    def since(self) -> float:
        """When the last transition was."""
        return self.current.since

    @property
    def deadline(self) -> float | None:
        """When the next Tick of the tunnel or of its active session is due."""
        return self.current.deadline

    @property
    def session(self) -> Session:
        """The active one, else the last."""
        return self.last if self.active is None else self.active.session

    @property
    def health(self) -> Health:
        """Does traffic pass."""
        return Health.UNKNOWN if self.active is None else self.active.health

    @property
    def liveness(self) -> Liveness:
        """What the probe rounds of the active session have shown."""
        return _NO_ROUNDS if self.active is None else self.active.liveness

    @property
    def asking(self) -> Asking | None:
        """What the remote gateway wants to know from a person."""
        return None if self.active is None else self.active.asking

    @property
    def code_at(self) -> float | None:
        """When the active session's client is given the one-time code that it waits for, or was given it."""
        return None if self.active is None else self.active.code_at

    @property
    def outdated(self) -> bool:
        """The inputs have changed since the active session's client was started."""
        return self.active is not None and self.active.outdated

    @property
    def reconnect_by(self) -> float | None:
        """The active session should reconnect at a quiet moment, at the latest then."""
        return None if self.active is None else self.active.reconnect_by

    @property
    def recovery(self) -> RecoveryStep | None:
        """How the last recovery was tried."""
        return self.retry.recovery if self.active is None else self.active.recovery

    @property
    def failure(self) -> Failure | None:
        """The last one."""
        own, last = None if self.active is None else self.active.failure, self.retry.failure
        if own is None or last is None:
            return own or last
        return own if own.at >= last.at else last

    @property
    def present_failure(self) -> Failure | None:
        """What explains that it is not well now: no error of a session before the one that is up, and none of
        the time before it was last well.
        """
        failure = self.active.failure if self.phase is Phase.UP and self.active is not None else self.failure
        return None if failure is None or failure.at < self.well_since else failure

    @property
    def running(self) -> bool:
        """A client process of the active session may exist."""
        return self.active is not None

    @property
    def coming(self) -> bool:
        """The standby is to replace the active session, and was not given up."""
        standby = self.standby
        return (
            standby is not None
            and standby.session.number > self.session.number
            and standby.phase is not Phase.STOPPING
        )

    @property
    def spare(self) -> bool:
        """The standby could go on if the active session ended now."""
        return self.standby is not None and (self.coming or self.standby.phase is Phase.UP)

    @property
    def sessions(self) -> tuple[SessionState, ...]:
        """Those whose client may run, the active one first."""
        return tuple([each for each in (self.active, self.standby) if each is not None])

    @property
    def slots(self) -> tuple[Session, ...]:
        """What is in the slots that are in use: the active session or the last one, and the standby."""
        return (self.session,) if self.standby is None else (self.session, self.standby.session)


_NO_ROUNDS = Liveness()


def up(state: TunnelState | SessionState) -> bool:
    """Connected and not known to be sick: what `facilitator_tunnel_up` says."""
    return state.phase is Phase.UP and state.health is not Health.UNHEALTHY


def well(tunnel: Tunnel, state: TunnelState | SessionState) -> bool:
    """Proven to work: up, and where there is something to probe, answered.

    A client that connects again and again while nothing passes is up for some seconds each time, and never
    well.
    """
    return up(state) and (state.health is Health.HEALTHY or not tunnel.probe.targets)


def sound(tunnel: Tunnel, state: TunnelState | SessionState) -> bool:
    """Well, and nothing makes us doubt it at this moment."""
    return well(tunnel, state) and state.liveness.suspected is None


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """A session whose client is gone. The core emits it once; whoever counts or records ends reads it."""

    tunnel: str
    session: Session
    reason: Reason
    failure: Failure | None  # what explains the reason, if anything does
    at: float  # monotonic seconds

    @property
    def connected_for(self) -> float | None:
        """Seconds for which it was connected; None: it never was."""
        return None if self.session.connected is None else self.at - self.session.connected
