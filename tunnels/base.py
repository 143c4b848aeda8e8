"""What a VPN kind *is*: the vocabulary shared by the files of this package and by the daemon.

A kind is a value (`Kind`): it says which inputs it reads, how its client is launched, and how the client's
words are understood. It does no I/O. The daemon launches the `Launch`, feeds every line that the client
utters to the `Dialogue`, and acts on what comes back.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from tunnels.settings import Destination, IPNetwork, Login, Network, Probe, Seconds, Secret, Settings, Tunnel
from tunnels.text import one_line

__all__ = [
    "KEY",
    "Beside",
    "Carrier",
    "Connected",
    "Destination",
    "Dialogue",
    "Failed",
    "Full",
    "IPNetwork",
    "Input",
    "Keep",
    "Kind",
    "Launch",
    "LineSource",
    "Login",
    "Need",
    "Network",
    "Observation",
    "Placement",
    "Probe",
    "Question",
    "Reason",
    "Say",
    "Seconds",
    "Secret",
    "Settings",
    "Tunnel",
    "Wanted",
    "device_name",
    "inputs_of",
    "slot_name",
]


# in argv: descriptor of an anonymous file with a line that only the daemon and this client know
KEY = "{management_key}"


class Reason(enum.StrEnum):
    """Why something happened to a tunnel. The same word stands in log, metric, history, status and
    incident.
    """

    # asked for
    CONFIGURED = "configured"  # it stands in the configuration
    STARTED = "started"  # an operator said start
    STOPPED = "stopped"  # an operator said stop
    RESTARTED = "restarted"  # an operator said restart
    RECONFIGURED = "reconfigured"  # its configuration changed
    INPUTS_CHANGED = "inputs-changed"  # a secret or a file of the client changed
    PLANNED = "planned"  # before the far side ends the session, another one takes its place
    SHUTDOWN = "shutdown"  # the daemon ends
    # progress
    RETRY = "retry"  # the pause after a failure is over
    CONNECTED = "connected"  # the client says that it is up
    HEALTHY = "healthy"  # a probe was answered
    # probes are answered, but too few of them, or too late; or the client takes no more connections
    DEGRADED = "degraded"
    # transient: tried again for ever
    EXITED = "exited"  # the client ended and gave no reason
    KILLED = "killed"  # a signal ended the client
    START_TIMEOUT = "start-timeout"  # the client did not come up in time
    UNHEALTHY = "unhealthy"  # probes stayed unanswered
    DESTINATION = "destination"  # the tunnel carries packets, and no probe target behind it answers
    DEVICE_LOST = "device-lost"  # the tunnel's network device vanished
    ADDRESS_CONFLICT = "address-conflict"  # the remote gateway assigned an address that is in use elsewhere
    NETWORK = "network"  # the far side cannot be reached
    DNS = "dns"  # its name cannot be resolved
    PEER_TIMEOUT = "peer-timeout"  # the far side fell silent
    PEER_CLOSED = "peer-closed"  # the far side ended the session
    HANDSHAKE = "handshake"  # the handshake was refused without a word
    UPLINK = "uplink"  # this host's own way out is dead: nothing is tried until it is back
    LOCAL = "local"  # something on this host is busy or missing for the moment
    SESSION_EXPIRED = (
        "session-expired"  # the far side's time for a session is over, or it no longer takes a kept session
    )
    PROTOCOL = "protocol"  # the remote side breaks the rules of the protocol, or floods the client
    FAR_END_FULL = "far-end-full"  # the far side has no place for another session
    BANNED = "banned"  # the far side shuts us out for a while
    # logins: tried again `login.max_attempts` times
    AUTH = "auth"  # the far side refused the account
    # permanent: waits for a human, a changed secret or a changed configuration
    KICKED = "kicked"  # an administrator of the far side ended the session for good
    CHALLENGE = "challenge"  # the far side asked a question that nobody answered
    CERTIFICATE = "certificate"  # the far side's certificate or host key is not trusted
    OUR_CERTIFICATE = "our-certificate"  # the far side refuses our certificate, or it is out of date
    KEY = "key"  # our key was refused or cannot be used
    CLIENT_CONFIG = "client-config"  # the client refuses its configuration
    MISSING_INPUT = "missing-input"  # a secret or file cannot be read
    MISSING_BINARY = "missing-binary"  # the client is not installed
    MISSING_RIGHT = "missing-right"  # the daemon lacks a capability


class Carrier(enum.Enum):
    """How a running session takes packets."""

    DEVICE = "device"  # a network device: packets are routed into it
    PROXY = "proxy"  # a local TCP port: connections are redirected to it


class LineSource(enum.Enum):
    """Where a line of the client came from."""

    OUTPUT = "output"  # stdout or stderr
    MANAGEMENT = "management"  # its management socket
    NOTIFY = "notify"  # a datagram on its private NOTIFY_SOCKET (sd_notify(3)), one field a line


@dataclass(frozen=True, slots=True)
class Beside:
    """A file that a profile names. It lies in the profile's directory or below, and no symbolic link on
    the way to it leaves that.
    """

    profile: Path
    name: str  # relative to the profile's directory
    option: str | None = None  # what names it
    line: int | None = None  # where that stands in the profile
    secret: bool = False  # its content is masked in every log
    folder: bool = False  # all files of this folder, as far as it exists


@dataclass(frozen=True, slots=True)
class Input:
    """Something that is read anew before each start, and watched while a tunnel waits for it to change."""

    name: str  # what the kind calls it
    where: Secret | Path | Beside  # a secret, a file that the settings name, or one that a profile names

    @property
    def secret(self) -> bool:
        """Its content is masked in every log."""
        return isinstance(self.where, Secret) or (isinstance(self.where, Beside) and self.where.secret)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one session runs."""

    directory: Path  # private (0700) directory of the tunnel below runtime_dir
    device: str  # device name to use (Carrier.DEVICE)
    port: int  # free local port to listen on (Carrier.PROXY)
    python: str  # interpreter for programs of our own
    remote: int = 0  # which of the far side's servers comes first: it grows when one was tried in vain
    mark: int = 0  # fwmark of packets that may enter the tunnel although it is not up yet
    user: tuple[int, int] | None = (
        None  # uid and gid that it has to become; None: it is not started as root, or may stay so
    )


@dataclass(frozen=True, slots=True)
class Launch:
    """One start of a client. It must stay in the foreground. No secret in argv or environment: those go
    into `files`.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)  # beside a minimal one (PATH, LANG)
    files: Mapping[str, bytes] = field(
        default_factory=dict
    )  # anonymous files; `{name}` in argv becomes the descriptor's number
    management: Path | None = None  # unix socket that the client makes and we connect to; with KEY in argv
    # the first line that we say is the content of that file
    notify: bool = False  # give it a private NOTIFY_SOCKET
    reads: tuple[Path, ...] = ()  # beside the system's files: what it opens itself, with all beneath
    writes: tuple[Path, ...] = ()  # beside its directory; directories that are missing are made
    capabilities: tuple[str, ...] = ()  # beside net_admin, where the daemon runs as root: setuid, setgid, ...


@dataclass(frozen=True, slots=True)
class Say:
    """A line to send to the client's management socket. `secret` keeps it out of every log."""

    line: str
    secret: bool = False


def _clean(said: Any, *names: str) -> None:
    """Whatever a kind has made of its client's words, in whatever encoding they came: from here on they
    can be shown.
    """
    for name in names:
        if (text := getattr(said, name)) is not None:
            object.__setattr__(said, name, one_line(text))


@dataclass(frozen=True, slots=True)
class Connected:
    """The client says that the tunnel is up."""

    address: str | None = None  # our address inside the tunnel, IPv4
    peer: str | None = None  # address of the far side's server
    routes: tuple[IPNetwork, ...] = ()  # what the far side pushed: read, never installed
    lasts: float | None = (
        None  # seconds from now that the far side lets this session live; None: it does not say
    )
    address6: str | None = None  # our address inside the tunnel, IPv6
    on_interface: bool = (
        False  # the client itself puts the addresses on its interface; else they exist in source NAT only
    )
    mtu: int | None = None  # bytes: the MTU to give the interface; None: the client has set it

    def __post_init__(self) -> None:
        _clean(self, "address", "address6", "peer")


@dataclass(frozen=True, slots=True)
class Failed:
    """The client says why this session cannot go on."""

    reason: Reason
    text: str  # clean, and one line

    def __post_init__(self) -> None:
        _clean(self, "text")


@dataclass(frozen=True, slots=True)
class Full:
    """The client carries as many connections as it can and refuses new ones; `text` None: it takes new
    ones again.
    """

    text: str | None  # clean, and one line

    def __post_init__(self) -> None:
        _clean(self, "text")


class Wanted(enum.StrEnum):
    """What a question of the far side is answered with."""

    CODE = "code"  # a one-time code: from `login.totp`, else from a person
    TEXT = "text"  # something else that only a person knows
    APPROVAL = "approval"  # nothing: a person approves elsewhere, such as on a phone


@dataclass(frozen=True, slots=True)
class Question:
    """The far side asks; the session goes on when `Dialogue.answer` was called, or by itself after an
    APPROVAL.
    """

    wanted: Wanted
    text: str  # in the far side's words; clean, and one line

    def __post_init__(self) -> None:
        _clean(self, "text")


@dataclass(frozen=True, slots=True)
class Keep:
    """What lets the next session begin without a login (a cookie, a token): the next launch gets it as the
    input `kept`.

    The empty secret means: what was kept is worthless now.
    """

    secret: str = field(repr=False)


Observation = Connected | Failed | Full | Question | Keep


class Dialogue(Protocol):
    """Sans-IO understanding of one session's client. Never raises, whatever the client utters."""

    def receive(self, source: LineSource, line: str) -> Iterable[Say | Observation]:
        """Take one line (no newline) and give what to answer and what it means. The empty MANAGEMENT line
        means: just connected.
        """
        ...

    def answer(self, text: str) -> Iterable[Say | Observation]:
        """Take the answer to the latest Question and give what to tell the client. Without an open
        question: nothing.
        """
        ...


@dataclass(frozen=True, slots=True)
class Need:
    """A file of the host, beside programs and /dev/net/tun, without which a kind's client cannot work."""

    path: str
    otherwise: str  # what to do where it cannot be had


TunnelT = TypeVar("TunnelT", bound=Tunnel)


@dataclass(frozen=True, slots=True)
class Kind(Generic[TunnelT]):
    """A VPN kind: everything the daemon must know to run it."""

    name: str
    options: type[TunnelT]  # its settings (pydantic model)
    carrier: Carrier
    inputs: Callable[[TunnelT], tuple[Input, ...]]
    launch: Callable[
        [TunnelT, Placement, Mapping[str, bytes]], Launch
    ]  # ValueError(text): the inputs cannot be used
    dialogue: Callable[[TunnelT, Mapping[str, bytes]], Dialogue]
    binaries: tuple[str, ...]  # programs that must be installed
    companions: Callable[[TunnelT, Mapping[str, bytes]], tuple[Input, ...]] = (
        lambda tunnel, inputs: ()
    )  # what those inputs name in turn
    start_timeout: float = 60.0  # seconds from spawn to Connected
    stop_timeout: float = 5.0  # seconds from SIGTERM to SIGKILL
    renew: tuple[Say, ...] = ()  # tells the client to reconnect in place; empty: it cannot
    renews_login: bool = False  # that begins a session anew: its age counts from there
    pairs: Callable[[TunnelT], bool] = lambda tunnel: (
        True
    )  # two clients of the tunnel can run beside each other
    endless: bool = False  # its sessions have no end that one could come before
    leave: tuple[Say, ...] = ()  # tells it that its end, which follows, is for good
    endpoint: Callable[[TunnelT], str | None] = lambda tunnel: (
        None
    )  # which gateway it knocks at; those at one take turns
    door: Callable[[TunnelT], int | None] = lambda tunnel: (
        None
    )  # TCP port of that gateway, where everybody is answered
    inside: Callable[[TunnelT], str | None] = lambda tunnel: (
        None
    )  # a probe target of the far side itself, through a proxy
    share: Callable[[TunnelT], int] = lambda tunnel: 0  # connections that one source may have through a proxy
    certificates: Callable[[TunnelT, Mapping[str, bytes]], tuple[bytes, ...]] = (
        lambda tunnel, inputs: ()
    )  # PEM texts with ours, to watch
    needs: tuple[Need, ...] = ()  # what its client cannot work without
    gives_up_root: bool = False  # started as root, its client becomes `Place.user`


AnyKind = Kind[Any]


def inputs_of(kind: AnyKind, tunnel: Tunnel) -> tuple[Input, ...]:
    """Everything that is read before a start of this tunnel: what its kind wants, and the seed of its
    one-time codes.
    """
    seed = () if tunnel.login.totp is None else (Input("totp", tunnel.login.totp),)
    return *kind.inputs(tunnel), *seed


def slot_name(name: str, slot: int) -> str:
    """What belongs to one of a tunnel's slots carries this name: the second one's ends with a sign that no
    tunnel's name may have.
    """
    return f"{name}~" if slot else name


def device_name(tunnel: Tunnel, slot: int = 0) -> str:
    """The device of a slot: what the configuration says, else `t-NAME`, shortened with a checksum to the
    kernel's 15 characters.
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
