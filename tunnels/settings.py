"""What a person may say about a tunnel: the typed values behind the configuration file.

Every field carries its meaning, unit and default; the JSON Schema in `docs/` and the errors of `facilitator check` come from here.
Nothing in this module reads a file: a `Secret` is only the name of a place where a secret lies.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

IPNetwork = IPv4Network | IPv6Network
IPAddress = IPv4Address | IPv6Address

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def parse_duration(value: Any) -> float:
    """Seconds from `250ms`, `5s`, `2m`, `4h` or `1d`; ValueError says what a duration looks like."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a duration; write a number with a unit, such as 250ms, 5s, 2m, 4h or 1d")
    return float(match[1]) * _UNITS[match[2]]


def parse_network(value: Any) -> IPNetwork:
    """An IPv4 or IPv6 network in CIDR form; host bits that are set are an error, because they hide a typing mistake."""
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


Seconds = Annotated[
    float, BeforeValidator(parse_duration), WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?(ms|s|m|h|d)$"})
]
Network = Annotated[IPNetwork, BeforeValidator(parse_network), WithJsonSchema({"type": "string", "format": "cidr"})]


class Settings(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, validate_default=False, arbitrary_types_allowed=False)


class Secret(Settings):
    """Where a secret lies: a file (looked up in the credential directories) or an environment variable. Never the secret itself."""

    file: str | None = Field(None, description="name or path of the file that holds the secret")
    env: str | None = Field(None, description="name of the environment variable that holds the secret")

    @model_validator(mode="before")
    @classmethod
    def _refuse_literal(cls, value: Any) -> Any:
        if isinstance(value, dict | Secret):
            return value
        raise ValueError("a secret is never written here; put it in a file and say {file: NAME}, or {env: NAME}")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.file is None) == (self.env is None):
            raise ValueError("a secret is either {file: NAME} or {env: NAME}")
        return self


class Destination(Settings):
    """One network behind the tunnel, and the addresses under which staff reach it when that differs (1:1 mapping)."""

    network: Network = Field(description="the network at the far side")
    presented_as: Network | None = Field(None, description="what staff use instead, where two sites use the same addresses; same size")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"network": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _same_size(self) -> Self:
        if self.presented_as is not None and (
            self.presented_as.version != self.network.version or self.presented_as.prefixlen != self.network.prefixlen
        ):
            raise ValueError(f"presented_as {self.presented_as} must have the size of {self.network} (/{self.network.prefixlen})")
        return self

    @property
    def staff_side(self) -> IPNetwork:
        """The network that staff address."""
        return self.presented_as or self.network


class Login(Settings):
    """How the facilitator proves who it is."""

    username: str | None = Field(None, description="account name at the far side")
    password: Secret | None = Field(None, description="where the password lies")
    totp: Secret | None = Field(None, description="where the base32 seed or otpauth:// address of the one-time codes lies")
    max_attempts: Annotated[int, Field(ge=1, le=10)] = Field(3, description="rejected logins in a row before the tunnel waits for a human")
    reconnect_on_change: bool = Field(False, description="log in anew when a secret changes while the tunnel is up")


class Probe(Settings):
    """What proves that traffic passes: any one target that answers."""

    targets: tuple[str, ...] = Field((), description="tcp://ADDRESS:PORT, icmp://ADDRESS or http://ADDRESS[:PORT][/PATH]")
    interval: Seconds = Field(5.0, description="time between rounds while all is well")
    timeout: Seconds = Field(2.0, description="how long one round waits for an answer; also the pause after a missed round")


class Planned(Settings):
    """Reconnect before the far side cuts the session."""

    every: Seconds = Field(description="how long the far side lets a session live")
    before: Seconds = Field(600.0, description="how long before that to reconnect")
    window: str | None = Field(None, pattern=r"^\d\d:\d\d-\d\d:\d\d$", description="local time of day to prefer, as 02:00-05:00")


class Reconnect(Settings):
    """When a lost tunnel is tried again: at once after a stable session, then full jitter between `first` and `max`."""

    first: Seconds = Field(1.0, description="shortest pause before a retry")
    max: Seconds = Field(120.0, description="longest pause before a retry")
    stable_after: Seconds = Field(60.0, description="health for this long makes a session stable and forgets earlier failures")
    planned: Planned | None = Field(None, description="reconnect ahead of the far side's session limit")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max < self.first:
            raise ValueError(f"max ({self.max:g}s) is shorter than first ({self.first:g}s)")
        return self


class Alert(Settings):
    """When a human is called."""

    after: Seconds = Field(180.0, description="how long the tunnel must be down or unhealthy before an incident is opened")
    clear_after: Seconds = Field(120.0, description="how long it must be well before the incident is resolved")
    severity: Literal["critical", "error", "warning", "info"] = Field("critical", description="PagerDuty severity")
    routing_key: Secret | None = Field(None, description="another PagerDuty service for this tunnel")


class Allowance(Settings):
    """One staff segment that may enter the tunnel, optionally only to some ports."""

    segment: str = Field(description="a name under staff.segments")
    ports: tuple[str, ...] | None = Field(None, description="such as tcp/443; absent means all")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"segment": value} if isinstance(value, str) else value


class Tunnel(Settings):
    """One configured tunnel: the settings common to all kinds. A kind adds its own."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,30}$", description="the key under tunnels:")
    kind: str = Field(description="which VPN client runs it")
    description: str = Field("", description="for people: shown in status and incidents")
    destinations: tuple[Destination, ...] = Field(min_length=1, description="the networks that this tunnel carries")
    priority: Annotated[int, Field(ge=0, le=65535)] = Field(
        100, description="of two tunnels to one destination the healthy one with the lowest number carries it"
    )
    login: Login = Field(default_factory=Login)
    probe: Probe = Field(default_factory=Probe)
    reconnect: Reconnect = Field(default_factory=Reconnect)
    alert: Alert = Field(default_factory=Alert)
    allow: tuple[Allowance, ...] | None = Field(None, description="which staff segments may enter; absent means everybody")
    device: str | None = Field(None, pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,14}$", description="name of the tunnel's network device")
    mtu: Annotated[int, Field(ge=576, le=9000)] | None = Field(None, description="largest packet in bytes that fits into the tunnel")
