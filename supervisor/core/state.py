"""What is: the state of one tunnel, and the snapshot of all of them that every output is a function of."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import NamedTuple

from tunnels.base import Connected, IPNetwork, Question, Reason, Tunnel
from tunnels.settings import IPAddress


class Want(enum.StrEnum):
    """What was asked for."""

    UP = "up"
    DOWN = "down"


class Phase(enum.StrEnum):
    """What is."""

    STOPPED = "stopped"  # asked to be down
    STARTING = "starting"  # the client runs and has not come up
    UP = "up"  # the client says that it is connected
    BACKOFF = "backoff"  # waits before the next attempt
    STOPPING = "stopping"  # the client was told to end
    FAILED = "failed"  # waits for a human, or for a changed secret or configuration


class Health(enum.StrEnum):
    """Does traffic pass."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class Leg(enum.StrEnum):
    """A part of the way from here to a destination."""

    UPLINK = "uplink"  # this host's own way out
    ENDPOINT = "endpoint"  # from there to the far side's gateway
    TUNNEL = "tunnel"  # the session with it
    DESTINATION = "destination"  # what lies behind it


class Proof(enum.StrEnum):
    """What shows that a tunnel carries packets although no probe target answers."""

    ANSWERED = "answered"  # its far end answered us: both ways work
    RECEIVED = "received"  # something came out of it: one way works, and most likely both


class Reach(enum.StrEnum):
    """Does the far side's gateway answer, asked past the tunnel."""

    UNKNOWN = "unknown"  # many never answer; that says nothing
    ANSWERS = "answers"
    SILENT = "silent"  # it does not, and it did, or whoever wants to connect to it must be answered


class Rung(enum.StrEnum):
    """How far a recovery goes, from the cheapest step to the dearest."""

    IN_PLACE = "in-place"  # the running client reconnects
    RESUME = "resume"  # a new client continues the session at the far side, without a login
    LOGIN = "login"  # a new client logs in
    NEXT_REMOTE = "next-remote"  # the same, at another server of the far side


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a session ended, or could not begin."""

    reason: Reason
    text: str
    at: float  # monotonic seconds


@dataclass(frozen=True, slots=True)
class Asking:
    """A question of the far side that waits for a person."""

    question: Question
    until: float  # monotonic seconds


@dataclass(frozen=True, slots=True)
class Session:
    """One run of a tunnel's client. `number` only grows and fences off events of earlier runs."""

    number: int
    id: str = ""  # unique over restarts of the daemon
    pid: int | None = None
    device: str | None = None
    port: int | None = None
    started: float = 0.0  # monotonic seconds
    connected: float | None = None  # monotonic seconds
    address: str | None = None  # ours inside the tunnel, IPv4
    peer: str | None = None
    pushed: tuple[IPNetwork, ...] = ()
    path_mtu: int | None = (
        None  # bytes of the largest packet that passes; the last session's, until this one's is found
    )
    expires: float | None = None  # monotonic seconds: when the far side will end it, where it says so
    resumed: bool = False  # it continues what an earlier session had logged in for
    renewed: bool = False  # it was told to reconnect in place, and no probe was answered since
    slot: int = 0  # of the tunnel's two: each has its own lane, device and directory
    address6: str | None = None  # ours inside the tunnel, IPv6
    on_interface: bool = False  # the client itself puts these addresses on the device
    link_mtu: int | None = None  # bytes: the MTU to give the device, where the client leaves that to us

    @property
    def assigned(self) -> Iterator[IPAddress]:
        """The addresses that the remote gateway has assigned; what is none is left out."""
        for text in (self.address, self.address6):
            with contextlib.suppress(ValueError):
                yield ip_address(text or "")


def connected(session: Session, what: Connected, now: float, *, again: bool) -> Session:
    """The session with what its client says of it; a client that is connected and says it `again` need not
    repeat everything.
    """
    known = session if again else Session(session.number)
    addresses = (
        (what.address, what.address6) if what.address or what.address6 else (known.address, known.address6)
    )
    return replace(
        session,
        address=addresses[0],
        address6=addresses[1],
        on_interface=what.on_interface,
        link_mtu=what.mtu or known.link_mtu,
        peer=what.peer or known.peer,
        pushed=what.routes or known.pushed,
        connected=session.connected or now,
        expires=known.expires if what.lasts is None else now + what.lasts,
    )


@dataclass(frozen=True, slots=True)
class Drain:
    """A tunnel takes nothing new, and ends for this reason when its flows are over, or when the time is."""

    reason: Reason  # STOPPED, SHUTDOWN, or PLANNED of a session that was replaced
    until: float  # monotonic seconds
    left: int | None = None  # flows that are not over; None: not counted yet
    idle: float = 0.0  # seconds for which the most silent of them has been silent


class Second(enum.StrEnum):
    """What becomes of a session when the same tunnel begins a second one at the far side."""

    UNKNOWN = "unknown"  # it was never tried
    ALLOWED = "allowed"  # both live
    REPLACES = "replaces"  # the second one takes the place of the first, with its address
    ENDS = "ends"  # the second one ends the first, and has another address
    REFUSED = "refused"  # there is no second one


class Length(NamedTuple):
    """How long a session was connected."""

    seconds: float
    ended_there: bool  # the far side ended it; else it could have lived longer


@dataclass(frozen=True, slots=True)
class Known:
    """What was learned about a far side; it outlives the daemon."""

    second: Second = Second.UNKNOWN
    lengths: tuple[Length, ...] = ()  # of the last sessions, oldest first


@dataclass(frozen=True, slots=True)
class TunnelState:
    """Everything that is remembered about one tunnel between two events. All moments are monotonic
    seconds.
    """

    want: Want = Want.UP
    phase: Phase = Phase.STOPPED
    health: Health = Health.UNKNOWN
    reason: Reason = Reason.CONFIGURED  # of the last transition
    since: float = 0.0  # when the last transition was
    well_since: float = 0.0  # when the answer to `well` last changed
    session: Session = Session(0)  # the current one, or the last
    deadline: float | None = None  # when the next Tick is due
    misses: int = 0  # probe rounds without an answer, in a row
    silence: int = 0  # of these, the last ones in which nothing else showed that the tunnel carries packets
    unheard: int = 0  # of these, the last ones in which nobody in the tunnel answered us
    doubted: bool = False  # it was given up although packets came out of it; not a second time
    endpoint: Reach = Reach.UNKNOWN  # the far side's gateway
    recent: tuple[
        float | None, ...
    ] = ()  # the last probe rounds while it was healthy: seconds, None: no answer
    degraded: str | None = None  # what is bad about a tunnel that works
    full: str | None = None  # its client takes no more connections
    healthy_since: float | None = None  # in this session
    attempts: int = 1  # sessions since the last stable one, plus one; 0 right after a stable one
    refusals: int = 0  # logins that were refused, in a row
    failure: Failure | None = None  # the last one
    last_rtt: float | None = None  # seconds, of the last answered probe
    reconnects: int = 0  # sessions begun because an earlier one had ended, nobody having asked
    proven: bool = False  # it was connected with these very inputs
    outdated: bool = False  # the inputs have changed since the client was started
    suspicions: int = 0  # handshakes that were refused without a word, in a row
    login_after: float = 0.0  # no login before this moment: the account was refused
    turn: float | None = None  # when it may knock, where several tunnels knock at one gateway
    asking: Asking | None = None  # what the far side wants to know from a person
    kept: bool = False  # the next session can continue this one at the far side, without a login
    remote: int = 0  # which of the far side's servers comes first; grows with each that was tried in vain
    rung: Rung | None = None  # how the last recovery was tried
    reconnect_by: float | None = None  # it shall reconnect at a quiet moment, at the latest then
    drain: Drain | None = None  # it shall end when nothing goes through it any more; until then it is kept up
    single: bool = False  # when this session ends, none follows it here
    other: TunnelState | None = (
        None  # while one session replaces another: the one that does not carry (see `coming`)
    )
    numbered: int = 0  # the highest number that one of its sessions had, whichever slot that was on
    known: Known = Known()
    planned: float | None = None  # when the next planned reconnect begins

    @property
    def running(self) -> bool:
        """A client process may exist."""
        return self.phase in (Phase.STARTING, Phase.UP, Phase.STOPPING)

    @property
    def coming(self) -> bool:
        """The other session is to replace this one, and was not given up."""
        other = self.other
        return (
            other is not None
            and other.session.number > self.session.number
            and other.phase is not Phase.STOPPING
        )

    @property
    def sides(self) -> tuple[TunnelState, ...]:
        """The session that carries, and the other one."""
        return (self,) if self.other is None else (self, self.other)


def up(state: TunnelState) -> bool:
    """Connected and not known to be sick: what `facilitator_tunnel_up` says."""
    return state.phase is Phase.UP and state.health is not Health.UNHEALTHY


def well(tunnel: Tunnel, state: TunnelState) -> bool:
    """Proven to work: up, and where there is something to probe, answered.

    A client that connects again and again while nothing passes is up for some seconds each time, and never
    well.
    """
    return up(state) and (state.health is Health.HEALTHY or not tunnel.probe.targets)


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of phase or health: the single record for log, counter, history and status."""

    tunnel: str
    session: int
    before: Phase
    after: Phase
    health: Health
    reason: Reason
    text: str
    at: float  # monotonic seconds
    lasted: float  # seconds that the state before had lasted
    rung: Rung | None = None  # the recovery that begins with it
    leg: Leg | None = None  # the part of the way that is dead, as far as that is known
    ended: int | None = None  # the session that is over with it


@dataclass(frozen=True, slots=True)
class Uplink:
    """Whether this host's own way out works."""

    alive: bool = True
    since: float = float("-inf")  # monotonic seconds
    text: str = ""  # what shows that it is dead
    doubted: bool = False  # it may be dead; a verdict follows within seconds


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All tunnels at one moment: the read model of everything that goes out."""

    tunnels: Mapping[str, tuple[Tunnel, TunnelState]]
    now: float  # monotonic seconds
    draining: bool = False
    uplink: Uplink = Uplink()
