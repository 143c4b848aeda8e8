"""The settings that tunnels of all kinds have, as typed values (frozen dataclasses). A kind adds its own in
its package.

Every field has a description, unit and default; the JSON Schema in `docs/` and the errors of `facilitator
check` come from here. Nothing in this module reads a file: a `Secret` is only the name of the place where a
secret is stored.
"""

from __future__ import annotations

import re
from datetime import date
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from common.constraints import CheckedBy, Exact, Matching, NotEmpty, ReadBy, Whole
from common.quantities import Pause, Seconds, Share
from common.settings import Settings, setting
from tunnels.names import TunnelNames
from tunnels.networks import IPNetwork
from tunnels.targets import TargetText
from tunnels.text import clean

# --- networks
# ------------------------------------------------------------------------------------------------


def parse_network(value: Any) -> IPNetwork:
    """An IPv4 or IPv6 network in CIDR form. Host bits that are set are an error, because they are most likely
    a typo.
    """
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a network; write it as 10.77.0.0/24")
    try:
        return ip_network(value)
    except ValueError:
        try:
            meant = ip_network(value, strict=False)
        except ValueError:
            raise ValueError(f"{value!r} is not a network; write it as 10.77.0.0/24") from None
        raise ValueError(f"{value!r} has host bits set; the network is probably {meant}") from None


Network = Annotated[
    IPNetwork,
    ReadBy(
        parse_network,
        {"type": "string", "pattern": r"^[0-9A-Fa-f.:]+(/\d{1,3})?$", "examples": ["10.77.0.0/24"]},
    ),
]


# --- the settings
# ----------------------------------------------------------------------------------------------------------


class SecretError(ValueError):
    """A secret is missing, empty or cannot be read; the text names it and the places."""


class Secret(Settings):
    """Where a secret lies: a file (looked up in the credential directories) or an environment variable.
    Never the secret itself.
    """

    whole: ClassVar[bool] = True

    file: Annotated[str, NotEmpty()] | None = setting(
        default=None, description="name or path of the file that holds the secret"
    )
    env: Annotated[str, NotEmpty()] | None = setting(
        default=None, description="name of the environment variable that holds the secret"
    )

    @classmethod
    def long_form(cls, value: Any) -> Any:
        """Refuse anything that may be the secret itself. The texts never repeat it."""
        from pydantic_core import PydanticCustomError

        if isinstance(value, Secret):
            return value
        if not isinstance(value, dict):
            raise PydanticCustomError(
                "literal_secret",
                "a secret is never written here; put it into a file and say {file: NAME}, or {env: NAME}",
            )
        if not set(value) <= {"file", "env"}:
            raise PydanticCustomError(
                "literal_secret", "a secret is {file: NAME} or {env: NAME}, nothing else"
            )
        return value

    def check(self) -> None:
        """It lies in one place."""
        if (self.file is None) == (self.env is None):
            raise ValueError("a secret is either {file: NAME} or {env: NAME}")


class Destination(Settings):
    """One network behind the tunnel, and the addresses under which staff reach it when that differs (1:1
    mapping).
    """

    network: Network = setting(description="the network as the remote site knows it")
    presented_as: Network | None = setting(
        default=None,
        description="the network that users see instead, where two sites use the same addresses; same size",
    )

    @classmethod
    def long_form(cls, value: Any) -> Any:
        """A network alone may stand for it."""
        return value if isinstance(value, dict | Destination) else {"network": value}

    def check(self) -> None:
        """Both networks have one size."""
        if self.presented_as is not None and (
            self.presented_as.version != self.network.version
            or self.presented_as.prefixlen != self.network.prefixlen
        ):
            raise ValueError(
                f"presented_as {self.presented_as} must have the size of {self.network} "
                f"(/{self.network.prefixlen})"
            )

    @property
    def staff_side(self) -> IPNetwork:
        """The network that staff use."""
        return self.presented_as or self.network


class Login(Settings):
    """How the facilitator proves who it is."""

    username: str | None = setting(default=None, description="account name at the remote gateway")
    password: Secret | None = setting(default=None, description="the password")
    totp: Secret | None = setting(
        default=None, description="TOTP seed (base32, or an otpauth:// address) for one-time passwords"
    )
    append_code: bool = setting(
        default=False, description="the one-time password follows the password in the same field"
    )
    max_attempts: Annotated[int, Whole(1, 10)] = setting(
        default=3, description="consecutive rejected logins after which the tunnel needs attention"
    )
    pause: Pause = setting(
        default=60.0, description="wait n times this after the n-th consecutive rejected login"
    )
    reconnect_on_change: bool = setting(
        default=False, description="log in again when a secret changes while the tunnel is up"
    )


class Degraded(Settings):
    """From when on a tunnel that works is called degraded: somebody is told, nothing is restarted. Judged
    over the last 24 probe rounds.
    """

    loss: Share | None = setting(default=0.2, description="share of lost rounds; null: never")
    rtt: Pause | None = setting(default=None, description="median RTT; null: never")


class Probe(Settings):
    """What proves that traffic passes: any one target that answers."""

    targets: tuple[TargetText, ...] = setting(
        default=(), description="tcp://ADDRESS:PORT, icmp://ADDRESS or http://ADDRESS[:PORT][/PATH]"
    )
    interval: Pause = setting(default=5.0, description="time between rounds while all is well")
    timeout: Pause = setting(
        default=2.0, description="how long one round waits for an answer; also the pause after a missed round"
    )
    traffic: bool = setting(
        default=True,
        description="replies to users' packets count as an answered probe, so that a silent target alone "
        "ends no session; false: only targets count",
    )
    degraded: Degraded = setting(default=Degraded(), description="when a working tunnel counts as degraded")


_HOUR = r"([01]\d|2[0-3]):[0-5]\d"
_WINDOW = re.compile(rf"{_HOUR}-{_HOUR}", re.ASCII)


def _checked_window(value: str) -> str:
    if _WINDOW.fullmatch(value) is None:
        raise ValueError(f"{value!r} is not a time of day from-to; write it as 02:00-05:00")
    if value[:5] == value[6:]:
        raise ValueError(f"{value!r} is empty; leave the window out if any time of day is right")
    return value


_Window = Annotated[str, CheckedBy(_checked_window, {"type": "string", "pattern": f"^{_HOUR}-{_HOUR}$"})]


class Planned(Settings):
    """Reconnect before the remote gateway cuts the session."""

    every: Pause = setting(description="how long the remote gateway lets a session last")
    before: Seconds = setting(default=600.0, description="how long before that the next session starts")
    window: _Window | None = setting(
        default=None,
        description="local time of day to prefer, as 02:00-05:00, in the second half of a session",
    )

    def check(self) -> None:
        """There is a time between two sessions."""
        if self.before >= self.every:
            raise ValueError(f"before ({self.before:g}s) must be shorter than every ({self.every:g}s)")


class Reconnect(Settings):
    """When a lost tunnel is tried again: at once after a stable session, then full jitter between `first`
    and `max`; within `unreachable` as long as nothing answers.
    """

    first: Pause = setting(default=1.0, description="shortest pause before a retry")
    max: Pause = setting(default=120.0, description="longest pause before a retry")
    unreachable: Pause = setting(
        default=5.0,
        description="longest pause after an attempt to which the remote gateway sent no packet; it does not "
        "grow",
    )
    stable_after: Seconds = setting(
        default=60.0, description="healthy for this long makes a session stable and resets the backoff"
    )
    planned: Planned | None = setting(
        default=None,
        description="reconnect ahead of the remote gateway's session limit; without it, of one that it "
        "announces or has shown",
    )

    def check(self) -> None:
        """The pauses are ordered."""
        if self.max < self.first:
            raise ValueError(f"max ({self.max:g}s) is shorter than first ({self.first:g}s)")


class AlertSettings(Settings):
    """When the tunnel pages."""

    enabled: Annotated[bool, Exact()] = setting(
        default=True, description="false: the tunnel never pages; status, metrics and history show it as ever"
    )
    after: Seconds = setting(
        default=180.0,
        description="how long the tunnel must be down or unhealthy before an incident is opened",
    )
    clear_after: Seconds = setting(
        default=120.0, description="how long it must be healthy before the incident is resolved"
    )
    severity: Literal["critical", "error", "warning", "info"] = setting(
        default="critical", description="PagerDuty severity"
    )
    routing_key: Secret | None = setting(
        default=None, description="another PagerDuty service for this tunnel"
    )


def _checked_argv(value: tuple[str, ...]) -> tuple[str, ...]:
    if any("\0" in word for word in value):
        raise ValueError("a word holds a zero character")
    if not value or not value[0].startswith("/"):
        raise ValueError("the first word is the absolute path of a program, such as /usr/local/bin/notify")
    return value


_Argv = Annotated[tuple[str, ...], CheckedBy(_checked_argv)]


class Hooks(Settings):
    """Programs of yours that are run when a tunnel changes: without a shell, as an unprivileged user."""

    up: _Argv | None = setting(
        default=None, description="program and arguments, run when the tunnel comes up"
    )
    down: _Argv | None = setting(default=None, description="the same when it goes down or becomes unhealthy")
    changed: _Argv | None = setting(
        default=None,
        description="the same after every state change, including those that `up` and `down` are for",
    )
    timeout: Pause = setting(
        default=30.0, description="a hook that runs longer is killed and counts as failed"
    )


_PORTS = re.compile(r"(tcp|udp)/(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)


class Ports(NamedTuple):
    """A range of ports of one protocol."""

    protocol: str  # tcp or udp
    first: int
    last: int


def parse_ports(value: str) -> Ports:
    """Ports of `tcp/443` or `udp/8000-8100`; ValueError says how they are written."""
    match = _PORTS.fullmatch(value)
    first, last = (int(match[2]), int(match[3] or match[2])) if match else (0, 0)
    if match is None or not 1 <= first <= last <= 65535:
        raise ValueError(f"{value!r} is not a port; write it as tcp/443, udp/53 or tcp/8000-8100")
    return Ports(match[1], first, last)


def _checked_ports(value: str) -> str:
    parse_ports(value)
    return value


def parse_day(value: Any) -> str:
    """A day as 2027-01-31; ValueError."""
    try:
        return date.fromisoformat(str(value)).isoformat()
    except ValueError:
        raise ValueError(f"{value} is not a day; write it as 2027-01-31") from None


MOST_PORTS = 64  # of an allowance by person: each is an element in the kernel, for each person


class Allowance(Settings):
    """One staff segment, group or person that may enter the tunnel, optionally only to some ports."""

    segment: str = setting(default="", description="a name under staff.segments")
    group: str = setting(default="", description="people of this group, as the hub says")
    person: str = setting(default="", description="this person, as the hub names it")
    until: Annotated[str, ReadBy(parse_day, {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"})] | None = (
        setting(default=None, description="of group or person: the last day with access, in UTC")
    )
    ports: tuple[Annotated[str, CheckedBy(_checked_ports)], ...] | None = setting(
        default=None, description="such as tcp/443; absent means all"
    )

    @classmethod
    def long_form(cls, value: Any) -> Any:
        """The name of a segment alone may stand for it."""
        return value if isinstance(value, dict | Allowance) else {"segment": value}

    def check(self) -> None:
        """It names one of the three; only people have a last day."""
        if sum(map(bool, (self.segment, self.group, self.person))) != 1:
            raise ValueError("name one of segment, group and person")
        if self.until is not None and self.segment:
            raise ValueError("until goes with a group or a person, not with a segment")
        spans = map(parse_ports, self.ports or ())
        if self.by_person and sum(each.last - each.first + 1 for each in spans) > MOST_PORTS:
            raise ValueError(f"at most {MOST_PORTS} ports for a group or a person; without ports: all")

    @property
    def by_person(self) -> bool:
        """It depends on who is behind an address."""
        return not self.segment

    def __str__(self) -> str:
        who = self.segment or (f"group {self.group}" if self.group else f"person {self.person}")
        until = "" if self.until is None else f" until {self.until}"
        ports = "" if self.ports is None else f" to {', '.join(self.ports)}"
        return f"{who}{until}{ports}"


_RESERVED_DEVICES = ("all", "default", "lo")


def _checked_device(value: str) -> str:
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]{0,14}", value, re.ASCII) is None:
        raise ValueError(
            f"{value!r} is not an interface name; at most 15 letters, digits, '_', '.', '-', a letter first"
        )
    if value in _RESERVED_DEVICES:
        raise ValueError(f"{value!r} belongs to the kernel; choose another name for the interface")
    return value


class Tunnel(Settings):
    """One configured tunnel: the settings common to all kinds. A kind adds its own."""

    name: Annotated[str, Matching(r"^[a-z][a-z0-9-]{0,30}$")] = setting(description="the key under tunnels:")
    kind: str = setting(description="which VPN client runs it")
    description: Annotated[str, CheckedBy(clean)] = setting(
        default="", description="free text, shown in status and incidents"
    )
    destinations: Annotated[tuple[Destination, ...], NotEmpty()] = setting(
        description="networks behind the tunnel"
    )
    priority: Annotated[int, Whole(0, 65535)] = setting(
        default=100,
        description="of several tunnels to one destination the healthy one with the lowest number carries it",
    )
    login: Login = setting(default=Login())
    probe: Probe = setting(default=Probe())
    reconnect: Reconnect = setting(default=Reconnect())
    alert: AlertSettings = setting(default=AlertSettings())
    hooks: Hooks = setting(default=Hooks())
    names: TunnelNames | None = setting(
        default=None, description="names behind the tunnel, for the name service; absent means none"
    )
    exclusive: Annotated[bool, Exact()] = setting(
        default=False, description="one session per account in the whole fleet; needs fleet.lock"
    )
    without_lock: Literal["end", "keep"] = setting(
        default="end",
        description="what an exclusive tunnel does when the lock engine is away: end before another member "
        "may log in, or keep the session",
    )
    allow: tuple[Allowance, ...] | None = setting(
        default=None, description="which segments, groups and people may enter; absent means everybody"
    )
    device: Annotated[str, CheckedBy(_checked_device)] | None = setting(
        default=None, description="name of the tunnel's network interface"
    )
    mtu: Annotated[int, Whole(576, 9000)] | None = setting(
        default=None, description="largest packet in bytes that fits into the tunnel"
    )
