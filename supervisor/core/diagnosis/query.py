"""`facilitator why`: the packet that is asked about, and everything that is known about its path.

PacketQuery -> locate -> Match -> packet_path -> PacketPath; `supervisor.app.api.explain` adds what the kernel
says -> Evidence -> `supervisor.core.diagnosis.answer`
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from supervisor.core.identity.view import IdentityView
from supervisor.core.network.layout import HostFeatures, Layout
from supervisor.core.network.plan import Carry, Lane, NetworkPlan
from supervisor.core.preflight.facts import HostFacts
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Failure, TunnelState
from tunnels.networks import IPAddress, IPNetwork
from tunnels.settings import Tunnel

_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})+\.?", re.ASCII)


@dataclass(frozen=True, slots=True)
class PacketQuery:
    """A packet to `address`: the address that staff use, or the real one behind a 1:1 mapping.

    `source` None: anybody in staff.networks. `port`: a TCP port.
    """

    address: IPAddress
    source: IPAddress | None = None
    port: int | None = None


def is_name(text: str) -> bool:
    """A name of several labels, and no address."""
    return _NAME.fullmatch(text) is not None and ":" not in text


def parse_query(address: str, source: str | None = None, port: str | int | None = None) -> PacketQuery:
    """The query from command line arguments. ValueError with one sentence."""
    asked = PacketQuery(
        _address(address),
        None if source is None else _address(source),
        None if port is None else _port(str(port)),
    )
    if asked.source is not None and asked.source.version != asked.address.version:
        raise ValueError(f"{asked.source} cannot send to {asked.address}: one is IPv4, the other IPv6")
    return asked


def _address(text: str) -> IPAddress:
    try:
        found = ip_address(text)
    except ValueError:
        hint = "; write one address of that network" if "/" in text else "; names are not resolved"
        raise ValueError(f"{text!r} is not an IP address{hint}") from None
    if getattr(found, "scope_id", None):
        raise ValueError(f"{text!r} is an address on one link only; no tunnel can carry it")
    return found


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 65535):
        raise ValueError(f"{text!r} is not a port; write a number from 1 to 65535")
    return int(text)


@dataclass(frozen=True, slots=True)
class Match:
    """The destination that covers an address."""

    carry: Carry
    address: IPAddress  # the one that staff use

    @property
    def real(self) -> IPAddress:
        """The address behind the remote gateway, after a 1:1 mapping."""
        return shifted(self.address, self.carry.network, self.carry.real)


@dataclass(frozen=True, slots=True)
class Alias:
    """An address under which staff reach a real address behind a 1:1 mapping."""

    tunnel: str
    address: IPAddress


def locate(snapshot: Snapshot, plan: NetworkPlan, address: IPAddress) -> Match | None:
    """The smallest destination network that contains the address staff use; None: there is none.

    The plan may still name a tunnel that was just removed: that is ignored.
    """
    lanes = {lane.number for lane in plan.lanes if lane.tunnel in snapshot.tunnels}
    covering = (carry for carry in plan.carries if address in carry.network and carry.lane in lanes)
    found = max(covering, key=lambda carry: carry.network.prefixlen, default=None)
    return None if found is None else Match(found, address)


def aliases(snapshot: Snapshot, address: IPAddress) -> tuple[Alias, ...]:
    """The addresses that 1:1 mappings give to a real address, each once."""
    found: dict[IPAddress, Alias] = {}
    for tunnel, _ in snapshot.tunnels.values():
        for destination in tunnel.destinations:
            if destination.presented_as is not None and address in destination.network:
                name = shifted(address, destination.network, destination.presented_as)
                found.setdefault(name, Alias(tunnel.name, name))
    return tuple(found.values())


def shifted(address: IPAddress, old: IPNetwork, new: IPNetwork) -> IPAddress:
    """The address with the same host part in another network of the same size."""
    return new[int(address) - int(old.network_address)]


@dataclass(frozen=True, slots=True)
class RouteDecision:
    """The kernel's routing decision for one packet (RTM_GETROUTE). With an `error` (a sentence) no device."""

    device: str | None = None
    gateway: str | None = None
    table: int | None = None
    error: str | None = None

    def __str__(self) -> str:
        if self.device is None:
            return self.error or "nowhere"
        return f"dev {self.device}" if self.gateway is None else f"via {self.gateway} dev {self.device}"


@dataclass(frozen=True, slots=True)
class KernelView:
    """What was read from the kernel for one query. None: could not be read, or does not apply."""

    host: HostFeatures = field(default_factory=HostFeatures)
    layout: Layout | None = None  # all rules, routes and nftables elements of ours
    forwarding: bool | None = None  # of the packet's IP version
    onward: RouteDecision | None = None  # the packet itself, marked as our rules would
    back: RouteDecision | None = None  # its answers
    addresses: tuple[str, ...] = ()  # of the tunnel's device, of the packet's IP version
    listening: bool | None = None  # on the proxy's port
    traffic: tuple[int, int] | None = None  # bytes received and sent by the device
    refused: Mapping[str, int] = field(default_factory=dict)  # packets, by chain of our table
    turned_away: Mapping[tuple[str, str], int] = field(
        default_factory=dict
    )  # packets, by tunnel and segment ("": in none)
    others: HostFacts | None = None  # what other programs have put there
    problem: str | None = None  # why something could not be read


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that the answer to a query follows from."""

    query: PacketQuery
    snapshot: Snapshot
    plan: NetworkPlan
    kernel: KernelView
    wall_offset: float  # what turns monotonic seconds into Unix time
    segments: Mapping[str, Sequence[IPNetwork]] = field(default_factory=dict)
    failures: Mapping[str, Sequence[Failure]] = field(
        default_factory=dict
    )  # the last ones by tunnel, oldest first
    people: IdentityView | None = None  # None: the configuration names no hub


@dataclass(frozen=True, slots=True)
class PacketPath:
    """The lane and the tunnel that carry a packet."""

    match: Match
    lane: Lane
    tunnel: Tunnel
    state: TunnelState


def packet_path(snapshot: Snapshot, plan: NetworkPlan, match: Match) -> PacketPath:
    """The tunnel that carries the destination now."""
    lane = next(lane for lane in plan.lanes if lane.number == match.carry.lane)
    return PacketPath(match, lane, *snapshot.tunnels[lane.tunnel])


def candidates(snapshot: Snapshot, network: IPNetwork) -> Iterator[tuple[Tunnel, TunnelState]]:
    """The tunnels that could carry a destination network (of the addresses that staff use), by priority."""
    able = (
        pair
        for pair in snapshot.tunnels.values()
        if any(d.staff_side == network for d in pair[0].destinations)
    )
    return iter(sorted(able, key=lambda pair: (pair[0].priority, pair[0].name)))
