"""What the kernel should hold for a plan, item by item.

wanted(plan, host) -> Layout -> supervisor.core.network.changes.diff
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import NamedTuple

from supervisor.core.network.access import AccessPolicy, Segment, refusals
from supervisor.core.network.by_identity import ByIdentity
from supervisor.core.network.intervals import Interval, Range, longest_prefix, merged
from supervisor.core.network.lanes import HOST_FLAG, both_slots, share_set
from supervisor.core.network.layout import (
    CLOSED_METRIC,
    MAIN_TABLE,
    Device,
    Element,
    HostFeatures,
    Layout,
    Route,
)
from supervisor.core.network.plan import (
    Announced,
    Carry,
    HandedOver,
    Lane,
    Manner,
    MemberLane,
    NetworkPlan,
    Offer,
)
from supervisor.core.network.rules import RETURN_TABLE, Rule, leading, returning
from supervisor.core.network.second_hop import NEXT_HOP
from tunnels.networks import IPAddress, IPNetwork

TUNNEL_METRIC = 100  # of the route into a tunnel
ANYWHERE: Mapping[int, IPNetwork] = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
MSS_OVERHEAD: Mapping[int, int] = {4: 40, 6: 60}  # bytes of IP and TCP headers without options


def wanted(plan: NetworkPlan, host: HostFeatures) -> Layout:
    """The layout that carries out the plan on this host as it is now."""
    parts = [
        _of_destinations(plan.staff, ByIdentity(plan.carries), host.versions),
        _of_gates(plan.staff, plan.segments, plan.gates),
        Layout(elements=frozenset(_networks("denied", map(ip_network, plan.denied)))),
    ]
    if plan.announced_in is not None:
        announced = ByIdentity(plan.announced)
        parts.append(_of_announced(plan.announced_in, announced, _ways(plan, host), host.versions))
    parts += [_of_lane(lane, host.devices.get(lane.device or "lo"), host.versions) for lane in plan.lanes]
    parts += [_of_member(lane, host) for lane in plan.members]
    parts.append(_of_handed_over(ByIdentity(plan.handed_over)))
    return Layout(
        frozenset().union(*(part.routes for part in parts)),
        _rules(plan, host.versions),
        True,
        frozenset().union(*(part.elements for part in parts)),
    )


def _rules(plan: NetworkPlan, versions: tuple[int, ...]) -> frozenset[Rule]:
    devices = tuple(lane.device for lane in plan.lanes if lane.device is not None)
    numbers = [lane.number for lane in plan.lanes] + [lane.number for lane in plan.members]
    return leading(tuple(numbers), versions) | returning(devices, versions)


# Why these are cached: see `core.network.by_identity`.
@functools.lru_cache(maxsize=4)
def _of_destinations(
    staff: tuple[IPNetwork, ...], carries: ByIdentity[tuple[Carry, ...]], versions: tuple[int, ...]
) -> Layout:
    ground = _ground(staff, tuple([carry.network for carry in carries.value]), versions)
    return Layout(
        ground.closed, elements=ground.elements | frozenset(_carrying(carries.value, ground.intervals))
    )


class _Ground(NamedTuple):
    """What depends on the destinations and not on who carries them."""

    closed: frozenset[Route]
    elements: frozenset[Element]
    intervals: tuple[tuple[Interval, int], ...]  # with the position of the destination


@functools.lru_cache(maxsize=2)
def _ground(
    staff: tuple[IPNetwork, ...], networks: tuple[IPNetwork, ...], versions: tuple[int, ...]
) -> _Ground:
    closed = [
        Route(network, MAIN_TABLE, CLOSED_METRIC) for network in networks if network.version in versions
    ]
    closed += [Route(ANYWHERE[version], RETURN_TABLE, CLOSED_METRIC) for version in versions]
    closed += [
        Route(network, RETURN_TABLE, TUNNEL_METRIC, "throw")
        for network in staff
        if network.version in versions
    ]
    elements = frozenset((*_networks("staff", staff), *_networks("destinations", networks)))
    return _Ground(
        frozenset(closed), elements, tuple(longest_prefix(zip(networks, itertools.count(), strict=False)))
    )


@functools.lru_cache(maxsize=4)
def _of_gates(
    staff: tuple[IPNetwork, ...], segments: tuple[Segment, ...], gates: tuple[AccessPolicy, ...]
) -> Layout:
    return Layout(elements=frozenset(_gate_elements(staff, segments, gates)))


class _Way(NamedTuple):
    """A lane that is open now."""

    lane: int
    device: str | None  # None: a proxy
    versions: tuple[int, ...]  # of IP


def _ways(plan: NetworkPlan, host: HostFeatures) -> tuple[_Way, ...]:
    open_lanes = ((lane, tuple(open_routes(lane, host))) for lane in plan.lanes)
    return tuple(
        [
            _Way(lane.number, lane.device, tuple([route.network.version for route in routes]))
            for lane, routes in open_lanes
            if routes
        ]
    )


@functools.lru_cache(maxsize=4)
def _of_announced(
    table: int,
    announced: ByIdentity[tuple[Announced, ...]],
    ways: tuple[_Way, ...],
    versions: tuple[int, ...],
) -> Layout:
    """A route that names the interface goes with it, whether or not we are there to take it away."""
    known = {way.lane: way for way in ways}
    return Layout(
        frozenset(
            [
                route
                for each in announced.value
                if each.network.version in versions
                and (route := _announcement(table, each, known.get(each.lane))) is not None
            ]
        )
    )


def _announcement(table: int, announced: Announced, way: _Way | None) -> Route | None:
    place = announced.network, table, announced.metric
    if announced.offer is Offer.LAST:
        return Route(*place, "blackhole")
    if way is None or announced.network.version not in way.versions:
        return None
    return Route(*place, "blackhole") if way.device is None else Route(*place, "unicast", way.device)


@functools.lru_cache(maxsize=8192)
def _of_lane(lane: Lane, device: Device | None, versions: tuple[int, ...]) -> Layout:
    kind = "blackhole" if lane.manner is Manner.PAUSE else "unreachable"
    closed = (Route(ANYWHERE[version], lane.number, CLOSED_METRIC, kind) for version in versions)
    return Layout(
        frozenset((*closed, *_opening(lane, device, versions))),
        elements=frozenset(_lane_elements(lane, device)),
    )


def _of_member(lane: MemberLane, host: HostFeatures) -> Layout:
    """Its route is there whether or not it answers: how else would that be found out."""
    name = lane.device or host.shared.get(lane.member)
    device = None if name is None else host.devices.get(name)
    routes = [Route(ANYWHERE[version], lane.number, CLOSED_METRIC) for version in host.versions]
    elements = [Element(f"members{lane.address.version}", (_single(lane.address),))]
    if name is not None:
        elements.append(Element("hops", (lane.number, name)))
        elements.append(Element("arriving" if lane.device is not None else "shared", (name,)))
    if device is not None and device.up:
        routes += [
            Route(ANYWHERE[hop.version], lane.number, TUNNEL_METRIC, "unicast", name, hop)
            for hop in (NEXT_HOP.values() if lane.device is not None else (lane.address,))
            if hop.version == 4 or device.ipv6
        ]
    if lane.alive:
        elements.append(Element("up", (lane.number,)))
    if lane.port:
        elements.append(Element("handover", (lane.port,)))
    return Layout(frozenset(routes), elements=frozenset(elements))


@functools.lru_cache(maxsize=2)
def _of_handed_over(handed: ByIdentity[tuple[HandedOver, ...]]) -> Layout:
    found = longest_prefix((each.network, each.lane) for each in handed.value)
    return Layout(
        elements=frozenset(
            Element(f"previous{interval.version}", (interval,), (lane,)) for interval, lane in found
        )
    )


def _single(address: IPAddress) -> Interval:
    return Interval(address.version, int(address), int(address))


def open_routes(lane: Lane, host: HostFeatures) -> Iterator[Route]:
    """The routes into the tunnel, in the lane's own table; none while the lane or its interface
    is down or missing.
    """
    return _opening(lane, host.devices.get(lane.device or "lo"), host.versions)


def _opening(lane: Lane, device: Device | None, versions: tuple[int, ...]) -> Iterator[Route]:
    name = lane.device or "lo"
    if not lane.up or device is None or not device.up:
        return
    for version in versions:
        if version == 4 or device.ipv6:
            # The IPv6 kernel turns a unicast route to lo into an unreachable one; a local one lets our own
            # probes reach the proxy.
            kind = "local" if version == 6 and lane.device is None else "unicast"
            yield Route(ANYWHERE[version], lane.number, TUNNEL_METRIC, kind, name)


def _carrying(carries: Sequence[Carry], intervals: Iterable[tuple[Interval, int]]) -> Iterator[Element]:
    for interval, position in intervals:
        carry = carries[position]
        yield Element("carry4" if interval.version == 4 else "carry6", (interval,), (carry.lane,))
        if carry.real is not carry.network and carry.real != carry.network:
            yield Element(f"real{interval.version}", (carry.lane, interval), (Interval.of(carry.real),))


def _gate_elements(
    staff: Sequence[IPNetwork], segments: Sequence[Segment], gates: Sequence[AccessPolicy]
) -> Iterator[Element]:
    for gate, refusal in refusals(staff, segments, gates):
        interval = Interval(refusal.version, refusal.first, refusal.last)
        yield Element(f"refused{refusal.version}", (gate.lane, interval))
        for ports in refusal.ports:
            yield Element(
                f"allowed{refusal.version}",
                (gate.lane, interval, ports.protocol, Range(ports.first, ports.last)),
            )


def _lane_elements(lane: Lane, device: Device | None) -> Iterator[Element]:
    yield Element("unmoved", (lane.number, lane.number))
    if lane.up:
        yield Element("up", (lane.number,))
    elif lane.manner is Manner.REFUSE:
        yield Element("refusing", (lane.number,))
    if lane.draining:
        yield Element("draining", (lane.number,))
    # Always, also while it is down: with the element its count would go.
    yield from (Element("flows", (number,)) for number in both_slots(lane.number))
    if lane.device is None:
        yield from _proxy_elements(lane)
        return
    yield Element("lanes", (lane.number, lane.device))
    yield Element("own", (lane.number, lane.device))
    yield Element("own", (lane.number | HOST_FLAG, lane.device))
    if not lane.addresses:  # also before it is up, for what finds out whether it is
        yield Element("masqueraded", (lane.number,))
    for address in lane.addresses:
        yield Element(f"assigned{address.version}", (lane.number,), (_single(address),))
    yield Element("tunnels", (lane.device,))
    # An interface of a lane that is down changes nothing.
    mtu = 0 if device is None or not lane.up else min(device.mtu, lane.mtu or device.mtu)
    for version, overhead in MSS_OVERHEAD.items():
        if mtu > overhead:
            yield Element(f"mss{version}", (lane.device,), (mtu - overhead,))


def _proxy_elements(lane: Lane) -> Iterator[Element]:
    yield from (Element(way, (number,)) for way in ("sent", "received") for number in both_slots(lane.number))
    if lane.up and lane.port is not None:
        yield Element("ports", (lane.number,), (lane.port,))
        if lane.share:
            yield Element(share_set(lane.share), (lane.port,))


def lanes_of(elements: Iterable[Element]) -> frozenset[int]:
    """The lanes that these elements are about, of both slots of each tunnel."""
    return frozenset(
        part
        for element in elements
        if element.set == "flows"
        for part in element.key
        if isinstance(part, int)
    )


def _networks(name: str, networks: Iterable[IPNetwork]) -> Iterator[Element]:
    for interval in merged(Interval.of(network) for network in networks):
        yield Element(f"{name}{interval.version}", (interval,))


# --- how far the kernel follows
# ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RouteCounts:
    """The routes of one tunnel: those into it and those that close its networks while it is down."""

    wanted: int
    installed: int


def route_counts(plan: NetworkPlan, host: HostFeatures, actual: Layout) -> dict[str, RouteCounts]:
    """How far the kernel follows the plan, by tunnel. A missing device counts as one wanted route."""
    closing = _closing_by_lane(ByIdentity(plan.carries), host.versions)
    found: dict[str, RouteCounts] = {}
    for lane in plan.lanes:
        one, other = (
            _lane_counts(lane, closing.get(lane.number, frozenset()), host, actual.routes),
            found.get(lane.tunnel),
        )
        found[lane.tunnel] = (
            one if other is None else RouteCounts(one.wanted + other.wanted, one.installed + other.installed)
        )
    return found


@functools.lru_cache(maxsize=4)
def _closing_by_lane(
    carries: ByIdentity[tuple[Carry, ...]], versions: tuple[int, ...]
) -> Mapping[int, frozenset[Route]]:
    closing: dict[int, set[Route]] = {}
    for carry in carries.value:
        if carry.network.version in versions:
            closing.setdefault(carry.lane, set()).add(Route(carry.network, MAIN_TABLE, CLOSED_METRIC))
    return {number: frozenset(routes) for number, routes in closing.items()}


def _lane_counts(
    lane: Lane, closing: frozenset[Route], host: HostFeatures, routes: frozenset[Route]
) -> RouteCounts:
    device = host.devices.get(lane.device or "lo")
    own = _of_lane(lane, device, host.versions).routes | closing
    missing = lane.up and not any(True for _ in _opening(lane, device, host.versions))
    return RouteCounts(len(own) + missing, len(own & routes))
