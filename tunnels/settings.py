"""The settings that tunnels of all kinds have, as typed values (pydantic models). A kind adds its own in its
package.

Every field has a description, unit and default; the JSON Schema in `docs/` and the errors of `facilitator
check` come from here. Nothing in this module reads a file: a `Secret` is only the name of the place where a
secret is stored.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from common.quantities import Pause, Seconds, Share
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
    BeforeValidator(parse_network),
    WithJsonSchema(
        {"type": "string", "pattern": r"^[0-9A-Fa-f.:]+(/\d{1,3})?$", "examples": ["10.77.0.0/24"]}
    ),
]


# --- the settings
# ----------------------------------------------------------------------------------------------------------


class Settings(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=False,
        validate_default=False,
        arbitrary_types_allowed=False,
        defer_build=True,
    )

    # True: what a tunnel says replaces the group under `defaults:`; False: it is merged into it
    whole: ClassVar[bool] = False


class SecretError(ValueError):
    """A secret is missing, empty or cannot be read; the text names it and the places."""


class Secret(Settings):
    """Where a secret lies: a file (looked up in the credential directories) or an environment variable.
    Never the secret itself.
    """

    whole: ClassVar[bool] = True

    file: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="name or path of the file that holds the secret"
    )
    env: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="name of the environment variable that holds the secret"
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_literal(cls, value: Any) -> Any:
        """Refuse anything that may be the secret itself. The texts never repeat it."""
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

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.file is None) == (self.env is None):
            raise ValueError("a secret is either {file: NAME} or {env: NAME}")
        return self


class Destination(Settings):
    """One network behind the tunnel, and the addresses under which staff reach it when that differs (1:1
    mapping).
    """

    network: Network = Field(description="the network at the far side")
    presented_as: Network | None = Field(
        None, description="what staff use instead, where two sites use the same addresses; same size"
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return value if isinstance(value, dict | Destination) else {"network": value}

    @model_validator(mode="after")
    def _same_size(self) -> Self:
        if self.presented_as is not None and (
            self.presented_as.version != self.network.version
            or self.presented_as.prefixlen != self.network.prefixlen
        ):
            raise ValueError(
                f"presented_as {self.presented_as} must have the size of {self.network} "
                f"(/{self.network.prefixlen})"
            )
        return self

    @property
    def staff_side(self) -> IPNetwork:
        """The network that staff use."""
        return self.presented_as or self.network


class Login(Settings):
    """How the facilitator proves who it is."""

    username: str | None = Field(None, description="account name at the far side")
    password: Secret | None = Field(None, description="where the password lies")
    totp: Secret | None = Field(
        None, description="where the base32 seed or otpauth:// address of the one-time codes lies"
    )
    append_code: bool = Field(False, description="the one-time code follows the password in the same field")
    max_attempts: Annotated[int, Field(strict=True, ge=1, le=10)] = Field(
        3, description="rejected logins in a row before the tunnel waits for a human"
    )
    pause: Pause = Field(60.0, description="after the n-th rejected login in a row, this pause n times")
    reconnect_on_change: bool = Field(
        False, description="log in anew when a secret changes while the tunnel is up"
    )


class Degraded(Settings):
    """From when on a tunnel that works is called degraded: somebody is told, nothing is restarted. Judged
    over the last 24 probe rounds.
    """

    loss: Share | None = Field(0.2, description="part of the rounds without an answer; null: never")
    rtt: Pause | None = Field(None, description="time that half of the answers take longer than; null: never")


class Probe(Settings):
    """What proves that traffic passes: any one target that answers."""

    targets: tuple[TargetText, ...] = Field(
        (), description="tcp://ADDRESS:PORT, icmp://ADDRESS or http://ADDRESS[:PORT][/PATH]"
    )
    interval: Pause = Field(5.0, description="time between rounds while all is well")
    timeout: Pause = Field(
        2.0, description="how long one round waits for an answer; also the pause after a missed round"
    )
    traffic: bool = Field(
        True,
        description="packets that come back to staff count as an answered probe, so that a silent target alone "
        "ends no session; false: only targets count",
    )
    degraded: Degraded = Field(
        default_factory=Degraded, description="when a tunnel that works is called degraded"
    )


_HOUR = r"([01]\d|2[0-3]):[0-5]\d"
_WINDOW = re.compile(rf"{_HOUR}-{_HOUR}", re.ASCII)


def _checked_window(value: str) -> str:
    if _WINDOW.fullmatch(value) is None:
        raise ValueError(f"{value!r} is not a time of day from-to; write it as 02:00-05:00")
    if value[:5] == value[6:]:
        raise ValueError(f"{value!r} is empty; leave the window out if any time of day is right")
    return value


_Window = Annotated[
    str, AfterValidator(_checked_window), WithJsonSchema({"type": "string", "pattern": f"^{_HOUR}-{_HOUR}$"})
]


class Planned(Settings):
    """Reconnect before the far side cuts the session."""

    every: Pause = Field(description="how long the far side lets a session live")
    before: Seconds = Field(600.0, description="how long before that another session takes its place")
    window: _Window | None = Field(
        None, description="local time of day to prefer, as 02:00-05:00, in the second half of a session"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.before >= self.every:
            raise ValueError(f"before ({self.before:g}s) must be shorter than every ({self.every:g}s)")
        return self


class Reconnect(Settings):
    """When a lost tunnel is tried again: at once after a stable session, then full jitter between `first`
    and `max`; within `unreachable` as long as nothing answers.
    """

    first: Pause = Field(1.0, description="shortest pause before a retry")
    max: Pause = Field(120.0, description="longest pause before a retry")
    unreachable: Pause = Field(
        5.0,
        description="longest pause after an attempt that no packet of the remote gateway has answered; it does not "
        "grow",
    )
    stable_after: Seconds = Field(
        60.0, description="health for this long makes a session stable and forgets earlier failures"
    )
    planned: Planned | None = Field(
        None,
        description="reconnect ahead of the far side's session limit; without it, of one that it "
        "announces or has shown",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max < self.first:
            raise ValueError(f"max ({self.max:g}s) is shorter than first ({self.first:g}s)")
        return self


class AlertSettings(Settings):
    """When a human is called."""

    after: Seconds = Field(
        180.0, description="how long the tunnel must be down or unhealthy before an incident is opened"
    )
    clear_after: Seconds = Field(
        120.0, description="how long it must be well before the incident is resolved"
    )
    severity: Literal["critical", "error", "warning", "info"] = Field(
        "critical", description="PagerDuty severity"
    )
    routing_key: Secret | None = Field(None, description="another PagerDuty service for this tunnel")


def _checked_argv(value: tuple[str, ...]) -> tuple[str, ...]:
    if any("\0" in word for word in value):
        raise ValueError("a word holds a zero character")
    if not value or not value[0].startswith("/"):
        raise ValueError("the first word is the absolute path of a program, such as /usr/local/bin/notify")
    return value


_Argv = Annotated[tuple[str, ...], AfterValidator(_checked_argv)]


class Hooks(Settings):
    """Programs of yours that are run when a tunnel changes: without a shell, as an unprivileged user."""

    up: _Argv | None = Field(None, description="program and arguments, run when the tunnel has come up")
    down: _Argv | None = Field(None, description="the same when it is not up any more, or is unhealthy")
    changed: _Argv | None = Field(
        None, description="the same after every transition, also after those that `up` and `down` are for"
    )
    timeout: Pause = Field(30.0, description="a hook that runs longer is killed, and has failed")


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


class Allowance(Settings):
    """One staff segment that may enter the tunnel, optionally only to some ports."""

    segment: str = Field(description="a name under staff.segments")
    ports: tuple[Annotated[str, AfterValidator(_checked_ports)], ...] | None = Field(
        None, description="such as tcp/443; absent means all"
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return value if isinstance(value, dict | Allowance) else {"segment": value}


_RESERVED_DEVICES = ("all", "default", "lo")


def _checked_device(value: str) -> str:
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]{0,14}", value, re.ASCII) is None:
        raise ValueError(
            f"{value!r} is not a device name; at most 15 letters, digits, '_', '.', '-', a letter first"
        )
    if value in _RESERVED_DEVICES:
        raise ValueError(f"{value!r} belongs to the kernel; choose another name for the device")
    return value


class Tunnel(Settings):
    """One configured tunnel: the settings common to all kinds. A kind adds its own."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,30}$", description="the key under tunnels:")
    kind: str = Field(description="which VPN client runs it")
    description: Annotated[str, AfterValidator(clean)] = Field(
        "", description="for people: shown in status and incidents"
    )
    destinations: tuple[Destination, ...] = Field(
        min_length=1, description="the networks that this tunnel carries"
    )
    priority: Annotated[int, Field(strict=True, ge=0, le=65535)] = Field(
        100, description="of two tunnels to one destination the healthy one with the lowest number carries it"
    )
    login: Login = Field(default_factory=Login)
    probe: Probe = Field(default_factory=Probe)
    reconnect: Reconnect = Field(default_factory=Reconnect)
    alert: AlertSettings = Field(default_factory=AlertSettings)
    hooks: Hooks = Field(default_factory=Hooks)
    exclusive: Annotated[bool, Field(strict=True)] = Field(
        False, description="one session per account in the whole fleet; needs fleet.lock"
    )
    without_lock: Literal["end", "keep"] = Field(
        "end",
        description="what an exclusive tunnel does when the lock engine is away: end before another member "
        "may log in, or keep the session",
    )
    allow: tuple[Allowance, ...] | None = Field(
        None, description="which staff segments may enter; absent means everybody"
    )
    device: Annotated[str, AfterValidator(_checked_device)] | None = Field(
        None, description="name of the tunnel's network device"
    )
    mtu: Annotated[int, Field(strict=True, ge=576, le=9000)] | None = Field(
        None, description="largest packet in bytes that fits into the tunnel"
    )
