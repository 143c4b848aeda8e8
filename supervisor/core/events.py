"""Events (what happened, past tense) and actions (what to do about it, imperative)."""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.core.lock_view import LockView
from supervisor.core.state import Proof, Reach
from tunnels.base import Connected, Observation, Reason


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to one tunnel. `session` is the run it belongs to; None: to the tunnel as
    such.
    """

    tunnel: str
    session: int | None = None


@dataclass(frozen=True, slots=True)
class Asked(Event):
    """The tunnel should be up (STARTED, CONFIGURED), down (STOPPED, SHUTDOWN) or restarted (RESTARTED,
    RECONFIGURED).
    """

    reason: Reason = Reason.STARTED
    until: float | None = (
        # down only when its flows are over, at the latest at this moment (monotonic seconds); None: at once
        None
    )


@dataclass(frozen=True, slots=True)
class FlowsCounted(Event):
    """How many flows are left in a lane that drains."""

    lane: int = 0
    left: int = 0  # without those that are over, or silent for too long
    idle: float = 0.0  # seconds for which the most silent of them has been silent


@dataclass(frozen=True, slots=True)
class InputsChanged(Event):
    """A secret or file of the client has new content."""

    usable: bool = True  # a client could start with it


@dataclass(frozen=True, slots=True)
class Spawned(Event):
    """The client process runs."""

    pid: int = 0
    id: str = ""
    device: str | None = None
    port: int | None = None


@dataclass(frozen=True, slots=True)
class SpawnFailed(Event):
    """There is no client process, and why."""

    reason: Reason = Reason.LOCAL
    text: str = ""


@dataclass(frozen=True, slots=True)
class ClientSaid(Event):
    """The client said something about the session."""

    what: Observation = Connected()


@dataclass(frozen=True, slots=True)
class Kept(Event):
    """Whether the client's session can be continued by the next one without a login."""

    kept: bool = False


@dataclass(frozen=True, slots=True)
class Delayed(Event):
    """The session waits for this host itself, such as for a one-time code that was not used yet: so many
    seconds at most.
    """

    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Answered(Event):
    """A person has answered the client's question. The answer goes to the client only."""


@dataclass(frozen=True, slots=True)
class Exited(Event):
    """The client process ended: with `code`, or by `signal`; both None when the kernel did not tell us."""

    code: int | None = None
    signal: int | None = None
    said: str | None = None  # its last own line; clean, secrets masked


@dataclass(frozen=True, slots=True)
class DeviceLost(Event):
    """The session's network device vanished."""

    device: str | None = None


@dataclass(frozen=True, slots=True)
class AddressConflict(Event):
    """An address that stands on the session's network device is in use elsewhere; `text` says where. It
    was removed.
    """

    device: str | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class InterfaceRepaired(Event):
    """Another program had changed the session's network device; it is as it must be again. `text` says what
    was wrong.
    """

    device: str | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class SourceLost(Event):
    """This host no longer has the address from which the session's client talks to its gateway."""

    address: str = ""


@dataclass(frozen=True, slots=True)
class PathMtu(Event):
    """The search for the largest IP packet that passes through the tunnel ended; `mtu` in bytes, None: no
    target answers it.
    """

    mtu: int | None = None


@dataclass(frozen=True, slots=True)
class Probed(Event):
    """A probe round ended; `rtt` in seconds, None: no target answered, and `proof` is what shows that the
    tunnel works all the same.
    """

    rtt: float | None = None
    proof: Proof | None = None
    silent: tuple[str, ...] | None = (
        None  # targets that did not answer in the last whole round; None: it goes on
    )


@dataclass(frozen=True, slots=True)
class Suspected(Event):
    """No probe of a session was answered for so long that new flows should go elsewhere, where they can."""


@dataclass(frozen=True, slots=True)
class FlowsEntered(Event):
    """New flows of staff entered the tunnel."""


@dataclass(frozen=True, slots=True)
class CarriedElsewhere(Event):
    """Another member of the fleet says from now on that routers send it the new flows of this tunnel."""


@dataclass(frozen=True, slots=True)
class EndpointSeen(Event):
    """The remote gateway was probed outside the tunnel."""

    reach: Reach = Reach.UNKNOWN


@dataclass(frozen=True, slots=True)
class LockChanged(Event):
    """There is news of the lock that an exclusive tunnel needs. A client without it must be gone at `until`
    (monotonic seconds).
    """

    lock: LockView = LockView("")
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class Noticed(Event):
    """An output has a condition to report, or none any more; `tunnel` is empty, because it concerns all of
    them.
    """


@dataclass(frozen=True, slots=True)
class Quiet(Event):
    """Hardly any traffic passes through the tunnel: a good moment to interrupt it."""


@dataclass(frozen=True, slots=True)
class ReconnectDue(Event):
    """The moment of a planned reconnect is reached. `free`: no other tunnel is a reason to wait."""

    free: bool = True


@dataclass(frozen=True, slots=True)
class UplinkChanged(Event):
    """This host's own way out works again, or does not (`text` says how that shows); `tunnel` is empty."""

    alive: bool = True
    text: str = ""


@dataclass(frozen=True, slots=True)
class UplinkDoubted(Event):
    """There are signs that this host's own way out is dead, or none any more; a verdict follows. `tunnel`
    is empty.
    """

    doubted: bool = True


@dataclass(frozen=True, slots=True)
class UplinkBack(Event):
    """The way out works again: what that means for one tunnel."""


@dataclass(frozen=True, slots=True)
class MemberChanged(Event):
    """Another member of the fleet can be reached through its lane again, or not any more; `tunnel` is
    empty.
    """

    member: str = ""
    alive: bool = True


@dataclass(frozen=True, slots=True)
class MembersCarry(Event):
    """Other members of the fleet carry tunnels' destinations, or did before this one; `tunnel` is empty."""

    carried: tuple[tuple[str, str], ...] = ()  # tunnel and member


@dataclass(frozen=True, slots=True)
class ClockSet(Event):
    """This host's clock was set, or is synchronised for the first time; `tunnel` is empty where that is told
    of all of them.
    """


@dataclass(frozen=True, slots=True)
class Tick(Event):
    """The state's deadline is reached."""


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start the client as this session."""

    tunnel: str
    session: int
    resume: bool = False  # with what the last session has kept, instead of a login
    remote: int = 0  # which of the configured servers is tried first
    slot: int = 0  # of the tunnel's two


@dataclass(frozen=True, slots=True)
class Renew:
    """Tell the client to reconnect in place."""

    tunnel: str
    session: int


@dataclass(frozen=True, slots=True)
class AskSignOfLife:
    """Make the client say whether the protocol itself shows that the remote gateway lives."""

    tunnel: str
    session: int


@dataclass(frozen=True, slots=True)
class Terminate:
    """Ask the client and all its descendants to end."""

    tunnel: str
    session: int
    leave: bool = False  # nothing continues this session: the client should log off


@dataclass(frozen=True, slots=True)
class Kill:
    """End the client and all its descendants."""

    tunnel: str
    session: int


Action = Spawn | Renew | AskSignOfLife | Terminate | Kill
