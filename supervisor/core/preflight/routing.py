"""Preflight checks: third-party policy routing rules before ours, and routes of the local table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from supervisor.core.netfilter.values import Truth
from supervisor.core.network.intervals import Interval
from supervisor.core.network.layout import MAIN_TABLE
from supervisor.core.network.plan import Lane
from supervisor.core.network.rules import PRIORITY
from supervisor.core.preflight.facts import HostAddress, HostFacts, PacketContext, PolicyRule, TableRoute
from supervisor.core.preflight.finding import Finding, info, ok, perhaps, problem, warning
from tunnels.networks import IPNetwork

LOCAL_TABLE = 255
_MAX_NAMED = 8  # tunnels that a sentence names
_STOPPING = ("blackhole", "unreachable", "prohibit")
_ADDRESSES = frozenset({"staff", "destination"})


@dataclass(frozen=True, slots=True)
class RoutedPackets:
    """Packets of a lane, from some networks to one network."""

    lane: Lane
    network: IPNetwork  # as it is addressed
    real: IPNetwork  # as routing sees it
    staff: tuple[IPNetwork, ...]
    arrivals: tuple[str, ...] = ()  # devices by which they come in


def routed_packets(context: PacketContext) -> Iterator[RoutedPackets]:
    """All packets that are forwarded into tunnels. A proxy's packets are not routed onwards."""
    lanes = {lane.number: lane for lane in context.plan.lanes if lane.device is not None}
    staff = {
        version: tuple(network for network in context.plan.staff if network.version == version)
        for version in (4, 6)
    }
    arrivals = {
        version: tuple(name for network, name in context.arrivals if network.version == version)
        for version in (4, 6)
    }
    for carry in context.plan.carries:
        if carry.lane in lanes and staff[carry.network.version]:
            version = carry.network.version
            yield RoutedPackets(
                lanes[carry.lane], carry.network, carry.real, staff[version], arrivals[version]
            )


def rules(facts: HostFacts) -> Iterator[Finding]:
    """Third-party rules that come before ours and match our packets."""
    if facts.rules is None:
        yield info("routing rules", "policy rules cannot be read", "ip rule")
        return
    if not facts.requirements.devices:
        return
    found = [finding for rule in facts.rules if first(rule) and (finding := _rule(rule, facts)) is not None]
    yield from found
    if not found:
        yield ok(
            "routing rules",
            f"no third-party policy rule matches facilitator's packets first (priority {PRIORITY})",
        )


def first(rule: PolicyRule) -> bool:
    """Does the rule come before ours? The kernel's own rule for the local table does not count."""
    return rule.priority <= PRIORITY and rule.table != LOCAL_TABLE


def _rule(rule: PolicyRule, facts: HostFacts) -> Finding | None:
    caught = [
        (packets, *truth)
        for packets in routed_packets(facts.context)
        if (truth := catches(rule, packets, facts.routes))[0] is not Truth.NO
    ]
    if not caught:
        return None
    certain = [each for each in caught if each[1] is Truth.YES]
    some = [each for each in caught if each[1] is Truth.MAYBE and each[2] <= _ADDRESSES]
    text = f"the third-party rule `{rule.priority}: {rule.text}` has precedence over facilitator's (priority {PRIORITY}) and "
    command = f"ip -{rule.version} rule"
    move = (
        f"{command} add pref {1000 + rule.priority} {rule.text} && {command} del pref {rule.priority} "
        f"{rule.text}"
    )
    hint = f"{move}   # and so wherever it is made at boot"
    if certain:
        return problem(
            "routing rules",
            f"{text}diverts facilitator's packets: {_stopped(packets for packets, *_ in certain)}",
            hint,
        )
    if some:
        return warning(
            "routing rules",
            f"{text}diverts some of facilitator's packets: {_stopped(packets for packets, *_ in some)}",
            hint,
        )
    return perhaps(
        "routing rules",
        text + "may divert some of facilitator's packets",
        f"{command} show pref {rule.priority}   # have its maker give it a priority above {PRIORITY}",
    )


def _stopped(found: Iterable[RoutedPackets]) -> str:
    networks: dict[str, list[str]] = {}
    for packets in found:
        networks.setdefault(packets.lane.tunnel, []).append(str(packets.network))
    names = [f"{name} ({_listed(of)})" for name, of in networks.items()]
    return f"this stops {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MAX_NAMED]) + (
        f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    )


def catches(
    rule: PolicyRule, packets: RoutedPackets, routes: Iterable[TableRoute]
) -> tuple[Truth, frozenset[str]]:
    """Does the rule lead these packets away from our table? And what that depends on, if uncertain."""
    if (
        rule.version != packets.real.version
        or rule.action == "nop"
        or (rule.action == "goto" and rule.onward <= PRIORITY)
    ):
        return Truth.NO, frozenset()
    parts = [*_selects(rule, packets)]
    matched = min((truth for truth, _ in parts), default=Truth.YES)
    open = {about for truth, about in parts if truth is Truth.MAYBE}
    if rule.inverted:
        matched = Truth(2 - matched)
    if rule.action == "lookup":
        taken = _takes(rule, packets, routes)
        matched, open = min(matched, taken), open | ({"destination"} if taken is Truth.MAYBE else set())
    return matched, frozenset(open)


def _selects(rule: PolicyRule, packets: RoutedPackets) -> Iterator[tuple[Truth, str]]:
    """Does each selector of the rule match, and which property of the packets does it look at?"""
    if rule.mask:
        yield Truth.YES if packets.lane.number & rule.mask == rule.mark & rule.mask else Truth.NO, "lane"
    if rule.source is not None:
        inside = [_covers(rule.source, network) for network in packets.staff]
        yield inside[0] if len(set(inside)) == 1 else Truth.MAYBE, "staff"
    if rule.target is not None:
        yield _covers(rule.target, packets.real), "destination"
    if rule.arrives:
        yield _arrives(rule, packets), "device"
    if rule.narrow:
        yield Truth.MAYBE, "other"


def _arrives(rule: PolicyRule, packets: RoutedPackets) -> Truth:
    """Do the packets come in by the interface that the rule names?"""
    matches = {rule.arrives == name for name in packets.arrivals}
    if matches == {True}:
        return Truth.YES
    return Truth.NO if matches == {False} and rule.arrives != "lo" else Truth.MAYBE


def _covers(outer: IPNetwork, inner: IPNetwork) -> Truth:
    if outer.version != inner.version or not outer.overlaps(inner):
        return Truth.NO
    return Truth.YES if outer.prefixlen <= inner.prefixlen else Truth.MAYBE


def _takes(rule: PolicyRule, packets: RoutedPackets, routes: Iterable[TableRoute]) -> Truth:
    """Has the rule's table a route for them? The main table has one: ours, which closes the destination."""
    if rule.table == MAIN_TABLE:
        return (
            Truth.YES
            if packets.real.prefixlen > rule.suppresses or packets.real != packets.network
            else Truth.NO
        )
    found = [
        _covers(route.network, packets.real)
        for route in routes
        if route.table == rule.table and route.kind != "throw" and route.network.prefixlen > rule.suppresses
    ]
    return max([Truth.NO, *found])


# --- the local table
# ----------------------------------------------------------------------------------------------------------


def local(facts: HostFacts) -> Iterator[Finding]:
    """Addresses of this host inside destinations: packets to them end here."""
    for route, packets in taken(facts.context, facts.routes):
        text = (
            f"{route.device} has the address {_short(route.network)}, which lies inside {packets.network}, "
            f"a destination of "
            f"{packets.lane.tunnel}: packets to it end at this host"
        )
        yield problem("addresses", text, removal(route, facts.own))


def removal(route: TableRoute, own: Iterable[HostAddress]) -> str:
    """The command that removes the address; `ip address del` needs its prefix length."""
    address, version = str(route.network.network_address), route.network.version
    named = next((each.address for each in own if each.address.partition("/")[0] == address), None)
    if named is None:
        return f"ip -{version} route del {route.kind} {route.network} dev {route.device} table local"
    return f"ip -{version} address del {named} dev {route.device}"


def taken(context: PacketContext, routes: Iterable[TableRoute]) -> Iterator[tuple[TableRoute, RoutedPackets]]:
    """Routes of the local table inside destinations. Compares integers, for ten thousand destinations."""
    tunnels = {lane.device for lane in context.plan.lanes}
    mine = [
        (Interval.of(route.network), route)
        for route in routes
        if route.table == LOCAL_TABLE and route.kind in ("local", "anycast") and route.device not in tunnels
    ]
    for packets in routed_packets(context) if mine else ():
        version, first, last = Interval.of(packets.real)
        yield from (
            (route, packets)
            for span, route in mine
            if span.first >= first and span.last <= last and span.version == version
        )


def _short(network: IPNetwork) -> str:
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)
