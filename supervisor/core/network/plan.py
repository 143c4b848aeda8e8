"""What the kernel should hold, as a value: a function of the configuration and the tunnels' states.

lane = fwmark = ct mark = routing table: each tunnel owns such a number. New flows from staff to a destination
get the fwmark of the lane that carries it; the lane's routing table leads into the tunnel while it is up, and
nowhere otherwise: for some seconds packets vanish, so that people see a pause, then they are answered with an
error. A lane outlives its sessions, so a flow survives a reconnect that keeps its address.

A tunnel has two *slots* for sessions, with a lane each. One is enough, except while a session replaces
another one: then new flows enter the lane of one slot, and the flows that run go on in the lane of the other.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

from supervisor.core.network.access import AccessPolicy, Segment, gate
from supervisor.core.network.by_identity import ByIdentity
from supervisor.core.network.failover import Carriers, Chosen, DestinationIndex, directory
from supervisor.core.network.lanes import FIRST_LANE, lane_of, share_of
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Phase, Session, TunnelState, Want, well
from tunnels.base import AnyKind, Carrier, IPNetwork, device_name
from tunnels.networks import MOST_TUNNELS, IPAddress
from tunnels.settings import Tunnel

PAUSE_SECONDS = 15.0  # that a tunnel has to come back before its destinations answer with an error


class Manner(enum.StrEnum):
    """What becomes of a packet that finds no way into its tunnel."""

    PAUSE = "pause"  # it vanishes: TCP sends it again, and established connections live on
    REFUSE = "refuse"  # it is answered at once: a TCP reset, else ICMP "unreachable"


@dataclass(frozen=True, slots=True)
class Lane:
    """lane = fwmark = ct mark = routing table. How one tunnel's packets leave."""

    tunnel: str
    number: int  # fwmark, ct mark and routing table
    device: str | None  # the interface (it may not exist at the moment); None: a proxy carries the lane
    up: bool  # packets may leave now
    port: int | None = None  # local port of the proxy, while up
    manner: Manner = Manner.REFUSE  # while it is not up, or its device is gone
    mtu: int | None = None  # bytes of the largest packet that passes, where that is known
    draining: bool = False  # it takes no new flows; those that are in it go on
    # Assigned by the remote gateway, while up: they exist in source NAT only. None: masquerade.
    addresses: tuple[IPAddress, ...] = ()
    own_addresses: tuple[IPAddress, ...] = ()  # that the client has put on the device, and needs there
    link_mtu: int | None = None  # bytes: the MTU that the device must have; None: what its client gives it
    gateway: str | None = None  # address of the remote gateway, while up
    share: int = 0  # connections to the port that one source may hold, one of SHARES; 0: as many as it likes


@dataclass(frozen=True, slots=True)
class Carry:
    """One destination, as staff address it, and the lane that carries it now."""

    network: IPNetwork  # as staff address it
    lane: int
    real: IPNetwork  # what it is at the remote site (differs with a 1:1 mapping)


class Offer(enum.StrEnum):
    """What routers are told of a destination."""

    CARRIES = "carries"  # it works, and they send new flows here
    WORKS = "works"
    STANDS_BY = "stands by"  # it works, and is not trusted yet, or is doubted
    DRAINS = "drains"  # it takes no new flows
    LAST = "last"  # it does not work here, and is announced in case that it works nowhere


class Announced(NamedTuple):
    """A destination that a BGP speaker of this host tells the routers of (`core.fleet.announcements`)."""

    network: IPNetwork  # as staff address it
    tunnel: str  # that carries it
    lane: int  # through which it is carried
    metric: int  # of the route that the speaker reads: the lower, the better
    since: float  # monotonic seconds at which it got this metric
    offer: Offer


@dataclass(frozen=True, slots=True)
class MemberLane:
    """How connections that another member of the fleet knows get to it: lane = fwmark = ct mark = routing
    table.
    """

    member: str
    number: int
    address: IPAddress  # of the member
    alive: bool  # it answers through this lane; else its connections are reset
    device: str | None = None  # our VXLAN interface to it; None: it is a neighbour on a subnet of this host
    local: IPAddress | None = None  # our address in VXLAN packets to it; None: as the kernel chooses
    port: int = 0  # of VXLAN


@dataclass(frozen=True, slots=True)
class HandedOver:
    """Whose the connections to one destination are that this host does not know."""

    network: IPNetwork  # as staff address it
    lane: int  # of a member, or NOBODY


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """The whole desired state of the kernel. Everything in `carries` is fail-closed whether or not its
    lane is up.
    """

    staff: tuple[IPNetwork, ...] = ()
    lanes: tuple[Lane, ...] = ()
    carries: tuple[Carry, ...] = ()
    segments: tuple[Segment, ...] = ()
    gates: tuple[AccessPolicy, ...] = ()  # of the tunnels that limit who may enter
    accounting: bool = False  # connection tracking counts the bytes of each flow and notes when it began
    directory: DestinationIndex | None = None  # which tunnels reach which destinations
    announced: tuple[Announced, ...] = ()  # one and the same object while nothing changes
    announced_in: int | None = None  # the table for that; None: nothing ever is announced
    denied: tuple[IPAddress, ...] = ()  # sources that are let in nowhere, and whose flows end
    members: tuple[MemberLane, ...] = ()
    handed_over: tuple[HandedOver, ...] = ()

    @property
    def devices(self) -> frozenset[str]:
        """The interfaces that packets take in lanes, of clients and of ours; they may not exist."""
        names = [lane.device for lane in self.lanes] + [lane.device for lane in self.members]
        return frozenset(name for name in names if name is not None)


Segments = Mapping[str, tuple[IPNetwork, ...]]
NO_SEGMENTS: Segments = MappingProxyType({})


def assign_lanes(names: Sequence[str], known: Mapping[str, int]) -> dict[str, int]:
    """The first slot's lane of each tunnel: the one it had, else the lowest free one. ValueError: more
    tunnels than lanes.
    """
    lanes = {name: known[name] for name in names if name in known}
    free = (n for n in range(FIRST_LANE, FIRST_LANE + MOST_TUNNELS) if n not in set(lanes.values()))
    for name in names:
        if name not in lanes:
            number = next(free, None)
            if number is None:
                raise ValueError(f"more than {MOST_TUNNELS} tunnels")
            lanes[name] = number
    return lanes


def proxies(tunnels: Mapping[str, Tunnel], kinds: Mapping[str, AnyKind]) -> dict[str, int]:
    """The tunnels that a local port carries, with the connections that one source may hold through each."""
    carried = {
        name: kinds[tunnel.kind]
        for name, tunnel in tunnels.items()
        if kinds[tunnel.kind].carrier is Carrier.PROXY
    }
    return {name: share_of(kind.connections_per_source(tunnels[name])) for name, kind in carried.items()}


def desired(
    staff: tuple[IPNetwork, ...],
    lanes: Mapping[str, int],
    proxies: Mapping[str, int],
    snapshot: Snapshot,
    carriers: Carriers,
    segments: Segments = NO_SEGMENTS,
    accounting: bool = False,
) -> NetworkPlan:
    """The plan for this snapshot. `proxies`: as the function of that name says; `carriers`: who carries
    which destination.
    """
    plan_lanes = [
        lane
        for name, (tunnel, state) in snapshot.tunnels.items()
        for lane in _lanes(tunnel, state, lanes[name], proxies.get(name), snapshot.now)
    ]
    known = directory([tunnel for tunnel, _ in snapshot.tunnels.values()], carriers)
    carrying = tuple(
        [(name, lane_of(lanes[name], state.session.slot)) for name, (_, state) in snapshot.tunnels.items()]
    )
    carries = _carries(known, carrying, ByIdentity(carriers))
    gates = (
        gate(tunnel, lane_of(lanes[name], session.slot))
        for name, (tunnel, state) in snapshot.tunnels.items()
        if tunnel.allow is not None
        for session in state.slots
    )
    return NetworkPlan(
        staff,
        tuple(plan_lanes),
        carries,
        tuple(Segment(name, networks) for name, networks in segments.items()),
        tuple(each for each in gates if each is not None),
        accounting,
        known,
    )


@functools.lru_cache(maxsize=2)
def _carries(
    known: DestinationIndex, lanes: tuple[tuple[str, int], ...], carriers: ByIdentity[Carriers]
) -> tuple[Carry, ...]:
    """One and the same object while nothing changes."""
    made = _carries_of(known, lanes)
    in_order = isinstance(carriers.value, Chosen) and carriers.value.directory is known
    names = carriers.value.values() if in_order else [carriers.value[network] for network in known.ranked]
    return tuple([by_name[name] for by_name, name in zip(made, names, strict=True)])


@functools.lru_cache(maxsize=2)
def _carries_of(
    known: DestinationIndex, lanes: tuple[tuple[str, int], ...]
) -> tuple[Mapping[str, Carry], ...]:
    """For each destination: the carry by each tunnel that reaches it."""
    numbers = dict(lanes)
    return tuple(
        [
            {name: Carry(network, numbers[name], known.real[name, network]) for name in ranked}
            for network, ranked in known.ranked.items()
        ]
    )


def next_refusal(snapshot: Snapshot) -> float | None:
    """The monotonic moment at which a pause ends without any event; None: no tunnel pauses."""
    pausing = (
        state.well_since + PAUSE_SECONDS
        for tunnel, state in snapshot.tunnels.values()
        if not well(tunnel, state) and _manner(tunnel, state, snapshot.now) is Manner.PAUSE
    )
    return min(pausing, default=None)


def next_closing(snapshot: Snapshot) -> float | None:
    """The monotonic moment at which a tunnel that drains begins to refuse new flows; None: there is none."""
    drains = (state.drain for _, state in snapshot.tunnels.values() if state.drain is not None)
    return min((each.not_before for each in drains if each.not_before > snapshot.now), default=None)


def _manner(tunnel: Tunnel, state: TunnelState, now: float) -> Manner:
    """A tunnel that was asked to be down, needs attention or did not work for a while is declared down."""
    if well(tunnel, state):
        return Manner.PAUSE
    given_up = (
        state.want is Want.DOWN or state.phase in (Phase.STOPPED, Phase.FAILED) or _waits_for_cure(state)
    )
    return Manner.REFUSE if given_up or state.well_since + PAUSE_SECONDS <= now else Manner.PAUSE


def _waits_for_cure(state: TunnelState) -> bool:
    """Probably somebody has to cure why it failed, and it is not tried again within its pause."""
    waits = state.phase is Phase.BACKOFF and state.retry.suspicions > 0
    return waits and state.deadline is not None and state.deadline > state.well_since + PAUSE_SECONDS


def _lanes(tunnel: Tunnel, state: TunnelState, first: int, share: int | None, now: float) -> list[Lane]:
    """The lane of the active slot, and that of the standby if there is one."""
    manner = _manner(tunnel, state, now)
    active = _lane(tunnel, state.session, first, share, manner, up=state.phase is Phase.UP)
    lanes = [replace(active, draining=True) if _refuses(state, now) else active]
    if (standby := state.standby) is not None:
        lane = _lane(tunnel, standby.session, first, share, manner, up=standby.phase is Phase.UP)
        lanes.append(replace(lane, draining=True) if standby.drain is not None else lane)
    return lanes


def _refuses(state: TunnelState, now: float) -> bool:
    """It takes no new flow, and whoever could send one elsewhere has been told."""
    return state.drain is not None and state.drain.not_before <= now


def _lane(
    tunnel: Tunnel, session: Session, first: int, share: int | None, manner: Manner, *, up: bool
) -> Lane:
    number = lane_of(first, session.slot)
    if share is not None:
        return Lane(tunnel.name, number, None, up, session.port if up else None, manner, share=share)
    assigned = tuple(session.assigned) if up else ()
    return Lane(
        tunnel.name,
        number,
        device_name(tunnel, session.slot),
        up,
        manner=manner,
        mtu=session.path_mtu,
        addresses=() if session.on_interface else assigned,
        own_addresses=assigned if session.on_interface else (),
        link_mtu=session.link_mtu if up else None,
        gateway=session.peer if up else None,
    )
