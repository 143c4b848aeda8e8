"""A packet that somebody asks about, and what is known about its way: the values behind `facilitator why`.

Question -> locate -> Match -> (supervisor.app gathers) -> Facts -> supervisor.core.diagnosis.answer
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from supervisor.core.network.layout import HostFeatures, Layout
from supervisor.core.network.plan import Carry, Lane, NetworkPlan
from supervisor.core.preflight import facts as fitness
from supervisor.core.state import Failure, Snapshot, TunnelState
from tunnels.settings import IPAddress, IPNetwork, Tunnel


@dataclass(frozen=True, slots=True)
class PacketQuery:
    """A packet to `address`, as staff or the far side call it. Without a source: from anybody in
    staff.networks. `port` is of TCP.
    """

    address: IPAddress
    source: IPAddress | None = None
    port: int | None = None


def parse_question(address: str, source: str | None = None, port: str | int | None = None) -> PacketQuery:
    """The question from what a person typed; ValueError with one sentence."""
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
    """The destination that covers an address, with both names of the address."""

    carry: Carry
    address: IPAddress  # what staff use

    @property
    def real(self) -> IPAddress:
        """What the address is at the far side."""
        return shifted(self.address, self.carry.network, self.carry.real)


@dataclass(frozen=True, slots=True)
class Alias:
    """A name under which staff reach an address of the far side (1:1 mapping)."""

    tunnel: str
    address: IPAddress


def locate(snapshot: Snapshot, plan: NetworkPlan, address: IPAddress) -> Match | None:
    """The smallest destination, as staff address them, around the address. The plan may lag behind a
    tunnel that was just removed.
    """
    lanes = {lane.number for lane in plan.lanes if lane.tunnel in snapshot.tunnels}
    covering = (carry for carry in plan.carries if address in carry.network and carry.lane in lanes)
    found = max(covering, key=lambda carry: carry.network.prefixlen, default=None)
    return None if found is None else Match(found, address)


def aliases(snapshot: Snapshot, address: IPAddress) -> tuple[Alias, ...]:
    """The names that staff use for an address of the far side; tunnels that present the same name give it
    once.
    """
    found: dict[IPAddress, Alias] = {}
    for tunnel, _ in snapshot.tunnels.values():
        for destination in tunnel.destinations:
            if destination.presented_as is not None and address in destination.network:
                name = shifted(address, destination.network, destination.presented_as)
                found.setdefault(name, Alias(tunnel.name, name))
    return tuple(found.values())


def shifted(address: IPAddress, old: IPNetwork, new: IPNetwork) -> IPAddress:
    """The address at the same place of another network of the same size."""
    return new[int(address) - int(old.network_address)]


@dataclass(frozen=True, slots=True)
class Lookup:
    """What the kernel's routing says about one packet. An error is in words, and then there is no device."""

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
    """What was read from the kernel for one question. None: it could not be read, or there was no reason
    to.
    """

    host: HostFeatures = field(default_factory=HostFeatures)
    layout: Layout | None = None  # all that is ours
    forwarding: bool | None = None  # of the packet's IP version
    onward: Lookup | None = None  # the packet itself, marked as our rules would
    back: Lookup | None = None  # its answers
    addresses: tuple[str, ...] = ()  # of the tunnel's device, of the packet's IP version
    listening: bool | None = None  # on the proxy's port
    traffic: tuple[int, int] | None = None  # bytes received and sent by the device
    refused: Mapping[str, int] = field(default_factory=dict)  # packets, by chain of our table
    turned_away: Mapping[tuple[str, str], int] = field(
        default_factory=dict
    )  # packets, by tunnel and segment ("": in none)
    others: fitness.HostFacts | None = None  # what other programs have put there
    problem: str | None = None  # why something could not be read


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that an answer is made of."""

    question: PacketQuery
    snapshot: Snapshot
    plan: NetworkPlan
    kernel: KernelView
    wall_offset: float  # what turns monotonic seconds into Unix time
    segments: Mapping[str, Sequence[IPNetwork]] = field(default_factory=dict)
    failures: Mapping[str, Sequence[Failure]] = field(
        default_factory=dict
    )  # the last ones by tunnel, oldest first


@dataclass(frozen=True, slots=True)
class Way:
    """The way of a packet that a tunnel carries."""

    match: Match
    lane: Lane
    tunnel: Tunnel
    state: TunnelState


def way(snapshot: Snapshot, plan: NetworkPlan, match: Match) -> Way:
    """Who carries the destination now, and how."""
    lane = next(lane for lane in plan.lanes if lane.number == match.carry.lane)
    return Way(match, lane, *snapshot.tunnels[lane.tunnel])


def candidates(snapshot: Snapshot, network: IPNetwork) -> Iterator[tuple[Tunnel, TunnelState]]:
    """The tunnels that could carry a destination, as staff address it, by priority."""
    able = (
        pair
        for pair in snapshot.tunnels.values()
        if any(d.staff_side == network for d in pair[0].destinations)
    )
    return iter(sorted(able, key=lambda pair: (pair[0].priority, pair[0].name)))
