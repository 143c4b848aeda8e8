"""The vocabulary of VPN kinds, shared by the packages in `tunnels.kinds` and the daemon.

A kind is a value (`Kind`). It says which inputs it reads, how its client is launched, and how the client's
output is understood. It does no I/O. The daemon starts the `Launch`, passes every line that the client prints
to the `Dialogue`, and acts on the `Observation`s that come back. docs/adding-a-kind.md shows a whole one.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from common.quantities import Seconds
from common.settings import Settings
from tunnels.networks import IPAddress, IPNetwork
from tunnels.proposals import ImportSource, ProposedTunnel
from tunnels.settings import Destination, Login, Network, Probe, Secret, Tunnel
from tunnels.text import one_line

__all__ = [
    "KEY",
    "Carrier",
    "Connected",
    "Destination",
    "Dialogue",
    "Failed",
    "FileFinding",
    "Full",
    "IPNetwork",
    "Input",
    "Inputs",
    "Keep",
    "Kind",
    "Launch",
    "LineSource",
    "Login",
    "Network",
    "NextServer",
    "Observation",
    "Placement",
    "Probe",
    "Question",
    "Reason",
    "ReferencedFile",
    "RequiredFile",
    "Say",
    "Seconds",
    "Secret",
    "Settings",
    "Tunnel",
    "Wanted",
    "device_name",
    "inputs_of",
    "place_of",
    "slot_name",
]


# In argv: the descriptor of an anonymous file. It holds one line, the key that the daemon sends first when it
# connects to the client's management socket.
KEY = "{management_key}"


class Reason(enum.StrEnum):
    """Why something happened to a tunnel: the word in log, metric, history, status and incident."""

    # requested
    CONFIGURED = "configured"  # it is in the configuration
    STARTED = "started"  # an operator started it
    STOPPED = "stopped"  # an operator stopped it
    RESTARTED = "restarted"  # an operator restarted it
    RECONFIGURED = "reconfigured"  # its configuration changed
    INPUTS_CHANGED = "inputs-changed"  # a secret or a file of the client changed
    CLOCK_SET = "clock-set"  # this host's clock was set: a wrong one may have been the cause
    PLANNED = "planned"  # a new session replaces the old one before the remote gateway ends it
    SHUTDOWN = "shutdown"  # the daemon ends
    # progress
    RETRY = "retry"  # the pause after a failure is over
    CONNECTED = "connected"  # the client reports that the tunnel is up
    HEALTHY = "healthy"  # a probe was answered
    # probes are answered, but too few of them or too late; or the client takes no more connections
    DEGRADED = "degraded"
    # transient: retried for ever
    EXITED = "exited"  # the client ended and gave no reason
    KILLED = "killed"  # a signal ended the client
    START_TIMEOUT = "start-timeout"  # the client did not come up in time
    UNHEALTHY = "unhealthy"  # probes stayed unanswered
    DESTINATION = "destination"  # the tunnel carries packets, but no probe target behind it answers
    DEVICE_LOST = "device-lost"  # the tunnel's interface vanished
    ADDRESS_CONFLICT = "address-conflict"  # the remote gateway assigned an address that is in use elsewhere
    NETWORK = "network"  # the remote gateway cannot be reached
    DNS = "dns"  # its name cannot be resolved
    PEER_TIMEOUT = "peer-timeout"  # the remote gateway stopped answering
    PEER_CLOSED = "peer-closed"  # the remote gateway ended the session
    HANDSHAKE = "handshake"  # the handshake failed without an explanation
    LOCK = "lock"  # the lock of an exclusive tunnel's account: it waits for it, has got it, or has lost it
    UPLINK = "uplink"  # this host has no Internet connection: nothing is tried until it is back
    LOCAL = "local"  # something on this host is busy or missing for the moment
    # the session's time limit is over, or the remote gateway no longer accepts a kept session
    SESSION_EXPIRED = "session-expired"
    PROTOCOL = "protocol"  # the remote gateway violates the protocol, or floods the client
    FAR_END_FULL = "far-end-full"  # the remote gateway has no room for another session
    BANNED = "banned"  # the remote gateway locks us out for a while
    # logins: retried `login.max_attempts` times, and then hourly if the account was accepted before
    AUTH = "auth"  # the remote gateway refused the account
    # another attempt can do harm: waits for an operator, a changed secret or a changed configuration
    KICKED = "kicked"  # an administrator of the remote gateway ended the session for good
    CHALLENGE = "challenge"  # the remote gateway asked a question that nobody answered
    # somebody has to cure it: pages at once, and is retried slowly
    CERTIFICATE = "certificate"  # the remote gateway's certificate or host key is not trusted
    OUR_CERTIFICATE = "our-certificate"  # the remote gateway refuses our certificate, or it has expired
    KEY = "key"  # our key was refused or cannot be used
    CLIENT_CONFIG = "client-config"  # the client refuses its configuration
    SECRET = "secret"  # noqa: S105 - a secret is missing or empty
    MISSING_INPUT = "missing-input"  # a secret or file cannot be read
    MISSING_BINARY = "missing-binary"  # the client is not installed
    MISSING_RIGHT = "missing-right"  # the daemon lacks a capability


class Carrier(enum.Enum):
    """How traffic enters a running session."""

    DEVICE = "device"  # a network interface: packets are routed into it
    PROXY = "proxy"  # a local TCP port: connections are redirected to it


class LineSource(enum.Enum):
    """Where a line of the client came from."""

    OUTPUT = "output"  # stdout or stderr
    MANAGEMENT = "management"  # its management socket
    NOTIFY = "notify"  # a datagram on its private NOTIFY_SOCKET (sd_notify(3)), one field a line
    END = "end"  # the empty line: the client has ended, and everything that it said was read


@dataclass(frozen=True, slots=True)
class ReferencedFile:
    """A file that a profile names. It must lie in the profile's directory or below; symbolic links that lead
    out of that directory are not followed.
    """

    profile: Path
    name: str  # relative to the profile's directory
    option: str | None = None  # the option that names it
    line: int | None = None  # the line of the profile with that option
    secret: bool = False  # its content is masked in every log
    folder: bool = False  # all files of this folder; none if it does not exist


@dataclass(frozen=True, slots=True)
class Input:
    """A secret or file that is read before each start, and watched while a tunnel waits for it to change."""

    name: str  # key in the `inputs` that `Kind.launch` gets
    where: Secret | Path | ReferencedFile

    @property
    def secret(self) -> bool:
        """Its content is masked in every log."""
        return isinstance(self.where, Secret) or (
            isinstance(self.where, ReferencedFile) and self.where.secret
        )


@dataclass(frozen=True, slots=True)
class FileFinding:
    """What an examination of a tunnel's files finds, before any client starts."""

    text: str  # one sentence: what is wrong or left out, and what to do; never a secret
    where: Path | Secret | None = None  # the file; None: the tunnel's settings
    line: int = 1  # of the file as the customer sent it
    fatal: bool = True  # no session can start with it; False: it works without, and that may matter

    def __str__(self) -> str:
        if self.where is None:
            return self.text
        return f"{place_of(self.where)}:{self.line}: {self.text}"


@dataclass(frozen=True, slots=True)
class Placement:
    """What the daemon assigns to one session of a tunnel before its client is launched."""

    directory: Path  # private directory (mode 0700) below runtime_dir; also the client's working directory
    device: str  # name of the interface to create (Carrier.DEVICE)
    port: int  # free local TCP port to listen on (Carrier.PROXY)
    python: str  # interpreter for drivers, the programs of ours that run a client
    remote: int = 0  # index of the remote gateway to try first: increased each time one was tried in vain
    mark: int = 0  # fwmark of packets that may enter the tunnel before it is up
    # uid and gid to switch to; None: not started as root, or may stay root
    user: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a client. It must stay in the foreground. Secrets belong into `files`, never into argv or
    environment.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)  # in addition to PATH and LANG
    # anonymous files (memfd_create(2)): `{name}` in argv becomes the number of the descriptor
    files: Mapping[str, bytes] = field(default_factory=dict)
    # unix socket that the client creates and the daemon connects to; with KEY in argv the first line that the
    # daemon sends is the key
    management: Path | None = None
    notify: bool = False  # give it a private NOTIFY_SOCKET (sd_notify(3))
    reads: tuple[
        Path, ...
    ] = ()  # what it opens besides system files and its directory, with everything below
    writes: tuple[Path, ...] = ()  # what it writes besides its directory; missing directories are created
    capabilities: tuple[str, ...] = ()  # in addition to net_admin if the daemon runs as root: setuid, ...


@dataclass(frozen=True, slots=True)
class Say:
    """A line to send to the client's management socket. `secret` keeps it out of every log."""

    line: str
    secret: bool = False


def _clean(observation: Any, *names: str) -> None:
    """Make these fields safe to print. Observations hold text of the client in any encoding."""
    for name in names:
        if (text := getattr(observation, name)) is not None:
            object.__setattr__(observation, name, one_line(text))


@dataclass(frozen=True, slots=True)
class Connected:
    """The client reports that the tunnel is up."""

    address: str | None = None  # our IPv4 address inside the tunnel
    peer: str | None = None  # address of the remote gateway
    routes: tuple[IPNetwork, ...] = ()  # networks that the remote gateway pushed: shown, never installed
    lasts: float | None = None  # seconds from now until the remote gateway ends the session; None: unknown
    address6: str | None = None  # our IPv6 address inside the tunnel
    # the client adds the addresses to its interface; else they exist in source NAT only
    on_interface: bool = False
    mtu: int | None = None  # bytes: the MTU that the interface must have; None: what the client gives it
    # the only networks to which packets pass, as the remote gateway has agreed; empty: any
    agreed: tuple[IPNetwork, ...] = ()
    name_servers: tuple[IPAddress, ...] = ()  # that the remote gateway pushed: asked only if `names` says so

    def __post_init__(self) -> None:
        _clean(self, "address", "address6", "peer")


@dataclass(frozen=True, slots=True)
class Failed:
    """The client reports why this session cannot go on."""

    reason: Reason
    text: str  # one sentence for operators; cleaned, one line

    def __post_init__(self) -> None:
        _clean(self, "text")


@dataclass(frozen=True, slots=True)
class Full:
    """The client carries as many connections as it can and refuses new ones; `text` None: it accepts new ones
    again.
    """

    text: str | None  # cleaned, one line

    def __post_init__(self) -> None:
        _clean(self, "text")


@dataclass(frozen=True, slots=True)
class NextServer:
    """The client has given up one of several servers and tries the next: it has its time to reconnect."""


@dataclass(frozen=True, slots=True)
class SignOfLife:
    """What the client says, when it is asked, about the protocol itself: not about users' packets."""

    seen: bool  # packets of the remote gateway came since it was asked before
    within: float  # seconds within which a gateway that lives sends the next one; 0: nobody knows
    # it is sent because of what we send, so both directions work; False: a gateway sends it by itself
    answers: bool = False


class Wanted(enum.StrEnum):
    """What kind of answer a question of the remote gateway needs."""

    CODE = "code"  # a one-time code: from `login.totp` if configured, else from an operator
    TEXT = "text"  # something else that only an operator knows
    APPROVAL = "approval"  # no text: somebody approves the login elsewhere, such as on a phone


@dataclass(frozen=True, slots=True)
class Question:
    """The remote gateway asks something. The session goes on after `Dialogue.answer`; after an APPROVAL by
    itself.
    """

    wanted: Wanted
    text: str  # the question as the remote gateway words it; cleaned, one line

    def __post_init__(self) -> None:
        _clean(self, "text")


@dataclass(frozen=True, slots=True)
class Keep:
    """What lets the next session start without a login (a cookie, a token): the next launch gets it as the
    input `kept`. The empty secret means that the stored one is worthless now.
    """

    secret: str = field(repr=False)


Observation = Connected | Failed | Full | NextServer | SignOfLife | Question | Keep


class Dialogue(Protocol):
    """Understands the output of one session's client, without I/O (sans-IO). Must never raise, whatever it
    gets.
    """

    def receive(self, source: LineSource, line: str) -> Iterable[Say | Observation]:
        """Take one line (no newline) and return replies and what the line means. The empty MANAGEMENT line
        means that the daemon has just connected to the management socket; END that the client has ended,
        which is when its messages about failures explain something.
        """
        ...

    def answer(self, text: str) -> Iterable[Say | Observation]:
        """Take the answer to the latest Question and return what to send. Nothing if no question is open."""
        ...


@dataclass(frozen=True, slots=True)
class RequiredFile:
    """A file of the host without which a kind's client cannot work, such as /dev/ppp."""

    path: str
    otherwise: str  # what to do where the file cannot exist; preflight checks print it


TunnelT = TypeVar("TunnelT", bound=Tunnel)
Inputs = Mapping[str, bytes]  # contents by `Input.name`


# Settings of every tunnel that are for its client, not for the daemon: some kinds have no use for some.
CLIENT_SETTINGS = frozenset(
    ("device", "mtu", "login.username", "login.password", "login.totp", "login.append_code")
)


@dataclass(frozen=True, slots=True)
class Kind(Generic[TunnelT]):
    """A VPN kind: everything that the daemon must know to run it. The first seven fields are mandatory."""

    name: str  # value of `kind:` in the configuration
    options: type[TunnelT]  # its settings
    carrier: Carrier
    # what is read before each start
    inputs: Callable[[TunnelT], tuple[Input, ...]]
    # how to start the client; ValueError(sentence): the inputs cannot be used
    launch: Callable[[TunnelT, Placement, Inputs], Launch]
    # a new dialogue for each session; ValueError as above
    dialogue: Callable[[TunnelT, Inputs], Dialogue]
    binaries: tuple[str, ...]  # programs that must be installed
    # what is to be said about the contents of the inputs besides what `launch` and `dialogue` refuse; secrets
    # and referenced files may be missing. ProfileError: a finding too (tunnels/examination.py).
    examine: Callable[[TunnelT, Inputs], Iterable[FileFinding]] = lambda tunnel, inputs: ()
    # further inputs that the contents of the first ones refer to, such as `ca ca.pem` in a profile
    referenced_inputs: Callable[[TunnelT, Inputs], tuple[Input, ...]] = lambda tunnel, inputs: ()
    start_timeout: float = 60.0  # seconds from the start of the client to Connected
    stop_timeout: float = 5.0  # seconds from SIGTERM to SIGKILL
    renew: tuple[Say, ...] = ()  # makes the client reconnect without ending; empty: it cannot
    # the remote gateway's session time limit starts again with `renew`
    renew_starts_new_session: bool = False
    # makes the client say `SignOfLife`; sent after each probe round that nothing answered; empty: it cannot
    ask_sign_of_life: tuple[Say, ...] = ()
    # seconds after the gateway's last packet in which the client ends by itself, so that one that runs on
    # shows that the gateway lives; None: it may run on without one
    ends_within: Callable[[TunnelT], float | None] = lambda tunnel: None
    # two clients of the tunnel can run at the same time (make-before-break)
    allows_parallel: Callable[[TunnelT], bool] = lambda tunnel: True
    unlimited_session: bool = False  # the protocol has no session limit: reconnects are never planned
    logout: tuple[Say, ...] = ()  # sent before SIGTERM if no other session continues this one: log out
    # host name or address of the remote gateway; logins of tunnels with the same one are paced
    endpoint: Callable[[TunnelT], str | None] = lambda tunnel: None
    # TCP port of the remote gateway that accepts connections from anybody; None: there is none
    tcp_port: Callable[[TunnelT], int | None] = lambda tunnel: None
    # probe target (as in `probe.targets`) on the remote gateway itself, asked through the proxy; tells a dead
    # tunnel from a dead destination
    inner_probe: Callable[[TunnelT], str | None] = lambda tunnel: None
    # connections that one source address may hold at a time (Carrier.PROXY); 0: no limit
    connections_per_source: Callable[[TunnelT], int] = lambda tunnel: 0
    # PEM texts that hold our certificates, so that their expiry is watched
    certificates: Callable[[TunnelT, Inputs], tuple[bytes, ...]] = lambda tunnel, inputs: ()
    required_files: tuple[RequiredFile, ...] = ()
    # the client goes on when its interface is moved into another network namespace (`facilitator try`)
    interface_moves: bool = False
    # for `facilitator import`: the tunnel in a customer's file or command line; None: it is not of this kind.
    # ProfileError: it is, and cannot be run
    propose: Callable[[ImportSource], ProposedTunnel | None] = lambda source: None
    drops_root: bool = False  # the client switches to `Placement.user` if it is started as root
    # which of `CLIENT_SETTINGS` have an effect on this tunnel's client
    uses: Callable[[TunnelT], frozenset[str]] = lambda tunnel: CLIENT_SETTINGS


AnyKind = Kind[Any]


def inputs_of(kind: AnyKind, tunnel: Tunnel) -> tuple[Input, ...]:
    """Everything that is read before a start of this tunnel: the kind's inputs, and the seed of one-time
    codes (`totp`) where the client may ask for one.
    """
    totp = tunnel.login.totp if "login.totp" in kind.uses(tunnel) else None
    seed = () if totp is None else (Input("totp", totp),)
    return *kind.inputs(tunnel), *seed


def place_of(where: Path | Secret) -> str:
    """The file as messages name it; a secret may come from an environment variable."""
    if isinstance(where, Path):
        return str(where)
    return where.file or f"${where.env}"


def slot_name(name: str, slot: int) -> str:
    """The name of one of a tunnel's two slots: `NAME` or `NAME~`. No tunnel's own name may end with `~`."""
    return f"{name}~" if slot else name


def device_name(tunnel: Tunnel, slot: int = 0) -> str:
    """The interface of a slot: `device:` of the configuration, else `t-NAME`; shortened to the kernel's 15
    characters, with a checksum to keep it unique.
    """
    if tunnel.device is not None and slot == 0:
        return tunnel.device
    name = slot_name(tunnel.device or f"t-{tunnel.name}", slot)
    if len(name) <= 15:
        return name
    checksum, digits = zlib.crc32(tunnel.name.encode()), ""
    for _ in range(4):
        checksum, digit = divmod(checksum, 36)
        digits += "0123456789abcdefghijklmnopqrstuvwxyz"[digit]
    return f"{name[:10]}{'~' if slot else '-'}{digits}"
