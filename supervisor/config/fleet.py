"""The `fleet:` part of the configuration: two or more facilitators that act as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Literal

from common.configuration.notation import File, Name, Url
from common.constraints import CheckedBy, Matching, NotEmpty, Whole
from common.quantities import Seconds
from common.settings import Settings, setting
from tunnels.settings import Secret

Port = Annotated[int, Whole(1, 65535)]


class ClientTls(Settings):
    """Mutual TLS to a server of the fleet."""

    certificate: File | None = setting(default=None, description="PEM file with the client certificate")
    key: File | None = setting(default=None, description="PEM file with its private key")
    ca: File | None = setting(default=None, description="PEM file; absent means this host's trusted CAs")

    def check(self) -> None:
        """A certificate has its key."""
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")


class FleetMember(Settings):
    """Another facilitator of the fleet."""

    address: IPv4Address | IPv6Address = setting(description="its address in the network that members share")
    api: Url | None = setting(
        default=None,
        description="URL of its HTTP server, for `facilitator fleet status` without a lock engine",
    )


class Handover(Settings):
    """How TCP connections that another member knows are handed over to it."""

    via: Literal["vxlan", "direct", "none"] = setting(
        default="vxlan",
        description="vxlan: works in any network; direct: members share a subnet and may forward for each other",
    )
    port: Port = setting(default=4790, description="UDP port of VXLAN, the same on all members")


def _checked_table(value: int) -> int:
    if value in (253, 254, 255):
        raise ValueError(f"{value} is a table of the kernel's own (default, main, local); write 173")
    return value


class BgpAnnouncement(Settings):
    """What works stands in a kernel table that a BGP speaker (BIRD) reads."""

    table: Annotated[int, Whole(1, 65535), CheckedBy(_checked_table)] = setting(
        default=173, description="number of the kernel table"
    )
    preference: Annotated[int, Whole(2, 1000)] = setting(
        default=100,
        description="metric of a destination that works here; the member with the lowest carries it",
    )


class AwsAnnouncement(Settings):
    """The routes of VPC route tables point to the member that holds the lock."""

    route_tables: Annotated[tuple[Annotated[str, Matching(r"^rtb-[0-9a-f]{4,17}$")], ...], NotEmpty()] = (
        setting(description="identifiers of the route tables")
    )
    interface: Annotated[str, Matching(r"^(auto|eni-[0-9a-f]{4,17})$")] = setting(
        default="auto", description="network interface that the routes point to; auto: the one in the VPC"
    )
    endpoint: Url | None = setting(
        default=None, description="another address of the EC2 API (VPC endpoint, test double)"
    )
    region: Annotated[str, NotEmpty()] | None = setting(
        default=None, description="absent means that of this instance"
    )


class Announcement(Settings):
    """Who is told which destinations work here."""

    bgp: BgpAnnouncement | None = setting(default=None, description="a BGP speaker that reads a kernel table")
    aws: AwsAnnouncement | None = setting(
        default=None, description="VPC route tables, without a BGP speaker; needs lock"
    )


def _between(least: float, most: float, text: str) -> Callable[[float], float]:
    def checked(seconds: float) -> float:
        if not least <= seconds <= most:
            raise ValueError(f"not between {text}")
        return seconds

    return checked


class Etcd(Settings):
    """Locks, orders and status in etcd (v3, JSON gateway)."""

    endpoints: Annotated[tuple[Url, ...], NotEmpty()] = setting(description="client URLs of the etcd cluster")
    tls: ClientTls = setting(default=ClientTls())
    username: Annotated[str, NotEmpty()] | None = setting(
        default=None, description="etcd's user, where authentication is on"
    )
    password: Secret | None = setting(default=None, description="its password")
    ttl: Annotated[Seconds, CheckedBy(_between(2.0, 600.0, "2s and 10m"))] = setting(
        default=5.0, description="a lock whose holder is silent for this long is released"
    )

    def check(self) -> None:
        """A user has a password."""
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together")


class Consul(Settings):
    """Locks, orders and status in Consul (sessions and key/value store)."""

    address: Url = setting(default="http://127.0.0.1:8500", description="HTTP API of the local agent")
    token: Secret | None = setting(default=None, description="ACL token")
    tls: ClientTls = setting(default=ClientTls())
    ttl: Annotated[Seconds, CheckedBy(_between(10.0, 86400.0, "10s and 1d, Consul's limits"))] = setting(
        default=10.0, description="TTL of the session; Consul frees a lock after up to twice this time"
    )


class LockEngine(Settings):
    """The engine that holds locks; one of them."""

    etcd: Etcd | None = setting(default=None, description="etcd")
    consul: Consul | None = setting(default=None, description="Consul")

    def check(self) -> None:
        """It is exactly one."""
        if (self.etcd is None) == (self.consul is None):
            raise ValueError("name one engine: etcd or consul")


class FleetSettings(Settings):
    """Two or more facilitators as one."""

    name: Name = setting(description="the same on all members; `facilitator.name` is the member")
    members: Mapping[Name, FleetMember] = setting(
        default_factory=dict,
        description="the other members by name, each `{address: ..., api: URL}`; this one may be listed, too",
    )
    handover: Handover = setting(default=Handover())
    announce: Announcement = setting(default=Announcement())
    lock: LockEngine | None = setting(
        default=None, description="absent means no exclusive tunnels and no orders"
    )
    tls: ClientTls = setting(
        default=ClientTls(), description="TLS client settings for members whose `api` is https"
    )
