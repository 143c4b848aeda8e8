"""Judges what routing meets before it comes to our rules: third-party policy rules, and routes of the
local table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from supervisor.core.netfilter.values import Truth
from supervisor.core.network.intervals import Interval
from supervisor.core.network.layout import MAIN_TABLE
from supervisor.core.network.plan import Lane
from supervisor.core.network.rules import PRIORITY
from supervisor.core.preflight.facts import Around, HostFacts, Own, PolicyRule, TableRoute
from supervisor.core.preflight.finding import Finding, info, ok, perhaps, problem, warning
from tunnels.settings import IPNetwork

LOCAL_TABLE = 255
_NAMED = 8  # tunnels that a sentence names
_STOPPING = ("blackhole", "unreachable", "prohibit")
_ADDRESSES = frozenset({"staff", "destination"})


@dataclass(frozen=True, slots=True)
class Course:
    """Packets that routing is asked about: of a lane, from some networks, to one."""

    lane: Lane
    network: IPNetwork  # as it is addressed
    real: IPNetwork  # as routing sees it
    staff: tuple[IPNetwork, ...]
    arrivals: tuple[str, ...] = ()  # devices by which they come in


def courses(around: Around) -> Iterator[Course]:
    """All packets that are forwarded into tunnels. A proxy's packets are not routed onwards."""
    lanes = {lane.number: lane for lane in around.plan.lanes if lane.device is not None}
    staff = {
        version: tuple(network for network in around.plan.staff if network.version == version)
        for version in (4, 6)
    }
    arrivals = {
        version: tuple(name for network, name in around.arrivals if network.version == version)
        for version in (4, 6)
    }
    for carry in around.plan.carries:
        if carry.lane in lanes and staff[carry.network.version]:
            version = carry.network.version
            yield Course(lanes[carry.lane], carry.network, carry.real, staff[version], arrivals[version])


def rules(facts: HostFacts) -> Iterator[Finding]:
    """Third-party rules that look at our packets before ours do."""
    if facts.rules is None:
        yield info("routing rules", "policy rules cannot be read", "ip rule")
        return
    if not facts.demand.devices:
        return
    found = [finding for rule in facts.rules if first(rule) and (finding := _rule(rule, facts)) is not None]
    yield from found
    if not found:
        yield ok(
            "routing rules",
            f"no third-party policy rule catches our packets before ours does (priority {PRIORITY})",
        )


def first(rule: PolicyRule) -> bool:
    """Is it looked at before ours, and not the kernel's own for this host's addresses."""
    return rule.priority <= PRIORITY and rule.table != LOCAL_TABLE


def _rule(rule: PolicyRule, facts: HostFacts) -> Finding | None:
    caught = [
        (course, *truth)
        for course in courses(facts.around)
        if (truth := catches(rule, course, facts.routes))[0] is not Truth.NO
    ]
    if not caught:
        return None
    certain = [each for each in caught if each[1] is Truth.YES]
    some = [each for each in caught if each[1] is Truth.MAYBE and each[2] <= _ADDRESSES]
    text = (
        f"the third-party rule `{rule.priority}: {rule.text}` stands before ours (priority {PRIORITY}) and "
    )
    command = f"ip -{rule.version} rule"
    move = (
        f"{command} add pref {1000 + rule.priority} {rule.text} && {command} del pref {rule.priority} "
        f"{rule.text}"
    )
    remedy = f"{move}   # and so wherever it is made at boot"
    if certain:
        return problem(
            "routing rules",
            f"{text}leads our packets elsewhere: {_stopped(course for course, *_ in certain)}",
            remedy,
        )
    if some:
        return warning(
            "routing rules",
            f"{text}leads some of our packets elsewhere: {_stopped(course for course, *_ in some)}",
            remedy,
        )
    return perhaps(
        "routing rules",
        text + "may lead some of our packets elsewhere",
        f"{command} show pref {rule.priority}   # have its maker give it a priority above {PRIORITY}",
    )


def _stopped(found: Iterable[Course]) -> str:
    networks: dict[str, list[str]] = {}
    for course in found:
        networks.setdefault(course.lane.tunnel, []).append(str(course.network))
    names = [f"{name} ({_listed(of)})" for name, of in networks.items()]
    return f"this stops {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def catches(rule: PolicyRule, course: Course, routes: Iterable[TableRoute]) -> tuple[Truth, frozenset[str]]:
    """Does the rule lead these packets away from our table; what it depends on where that is not certain
    for all of them.
    """
    if (
        rule.version != course.real.version
        or rule.action == "nop"
        or (rule.action == "goto" and rule.onward <= PRIORITY)
    ):
        return Truth.NO, frozenset()
    parts = [*_selects(rule, course)]
    matched = min((truth for truth, _ in parts), default=Truth.YES)
    open = {about for truth, about in parts if truth is Truth.MAYBE}
    if rule.inverted:
        matched = Truth(2 - matched)
    if rule.action == "lookup":
        taken = _takes(rule, course, routes)
        matched, open = min(matched, taken), open | ({"destination"} if taken is Truth.MAYBE else set())
    return matched, frozenset(open)


def _selects(rule: PolicyRule, course: Course) -> Iterator[tuple[Truth, str]]:
    """What the rule looks at, one by one."""
    if rule.mask:
        yield Truth.YES if course.lane.number & rule.mask == rule.mark & rule.mask else Truth.NO, "lane"
    if rule.source is not None:
        inside = [_covers(rule.source, network) for network in course.staff]
        yield inside[0] if len(set(inside)) == 1 else Truth.MAYBE, "staff"
    if rule.target is not None:
        yield _covers(rule.target, course.real), "destination"
    if rule.arrives:
        met = {rule.arrives == name for name in course.arrivals}
        yield (
            Truth.YES
            if met == {True}
            else Truth.NO
            if met == {False} and rule.arrives != "lo"
            else Truth.MAYBE,
            "device",
        )
    if rule.narrow:
        yield Truth.MAYBE, "other"


def _covers(outer: IPNetwork, inner: IPNetwork) -> Truth:
    if outer.version != inner.version or not outer.overlaps(inner):
        return Truth.NO
    return Truth.YES if outer.prefixlen <= inner.prefixlen else Truth.MAYBE


def _takes(rule: PolicyRule, course: Course, routes: Iterable[TableRoute]) -> Truth:
    """Has the rule's table a route for them. The main one has: ours, which closes the destination."""
    if rule.table == MAIN_TABLE:
        return (
            Truth.YES
            if course.real.prefixlen > rule.suppresses or course.real != course.network
            else Truth.NO
        )
    found = [
        _covers(route.network, course.real)
        for route in routes
        if route.table == rule.table and route.kind != "throw" and route.network.prefixlen > rule.suppresses
    ]
    return max([Truth.NO, *found])


# --- the local table
# ----------------------------------------------------------------------------------------------------------


def local(facts: HostFacts) -> Iterator[Finding]:
    """Addresses of this host inside destinations: it takes their packets for itself."""
    for route, course in taken(facts.around, facts.routes):
        text = (
            f"{route.device} has the address {_short(route.network)}, which lies inside {course.network}, "
            f"a destination of "
            f"{course.lane.tunnel}: packets to it end at this host"
        )
        yield problem("addresses", text, removal(route, facts.own))


def removal(route: TableRoute, own: Iterable[Own]) -> str:
    """The command that takes the address away; it must be named with the length of its prefix."""
    address, version = str(route.network.network_address), route.network.version
    named = next((each.address for each in own if each.address.partition("/")[0] == address), None)
    if named is None:
        return f"ip -{version} route del {route.kind} {route.network} dev {route.device} table local"
    return f"ip -{version} address del {named} dev {route.device}"


def taken(around: Around, routes: Iterable[TableRoute]) -> Iterator[tuple[TableRoute, Course]]:
    """Routes of the local table inside destinations. With ten thousand destinations numbers are compared,
    not networks.
    """
    tunnels = {lane.device for lane in around.plan.lanes}
    mine = [
        (Interval.of(route.network), route)
        for route in routes
        if route.table == LOCAL_TABLE and route.kind in ("local", "anycast") and route.device not in tunnels
    ]
    for course in courses(around) if mine else ():
        version, first, last = Interval.of(course.real)
        yield from (
            (route, course)
            for span, route in mine
            if span.first >= first and span.last <= last and span.version == version
        )


def _short(network: IPNetwork) -> str:
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)
