"""The steps that a packet takes into and through a tunnel, each judged by what was found: first the
decisions, then the kernel.

A step is a problem when it stops the packet although it should not. What merely follows from a tunnel that is
down is told, not blamed.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from supervisor.core.diagnosis.query import Evidence, Lookup, Way, aliases, candidates
from supervisor.core.humanize import lasting, size
from supervisor.core.network.intervals import Interval
from supervisor.core.network.layout import MAIN_TABLE, Element, Layout, Route, wanted
from supervisor.core.network.rules import Rule, leading
from supervisor.core.session.liveness import dead_leg
from supervisor.core.state import Health, Phase, TunnelState, up, well
from supervisor.core.views.status_json import iso
from tunnels.base import Reason
from tunnels.settings import Allowance, IPAddress, IPNetwork, Tunnel


class CheckStatus(enum.StrEnum):
    """What a step means for the packet."""

    OK = "ok"
    WARNING = "warning"  # worth knowing
    PROBLEM = "problem"  # here it ends


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    text: str
    mark: CheckStatus = CheckStatus.OK


# --- decisions
# ----------------------------------------------------------------------------------------------------------


def source(facts: Evidence) -> Check:
    """Is the sender staff."""
    asked, version = facts.question.source, facts.question.address.version
    staff = [network for network in facts.plan.staff if network.version == version]
    if not staff:
        return Check(
            "source",
            f"staff.networks names no IPv{version} network, so nobody may send this",
            CheckStatus.PROBLEM,
        )
    if asked is None:
        return Check("source", f"anybody in {_listed(staff)}; --from ADDRESS asks for one sender")
    covering = [network for network in staff if asked in network]
    if not covering:
        return Check("source", f"{asked} is not in staff.networks ({_listed(staff)})", CheckStatus.PROBLEM)
    segments = [
        name for name, networks in facts.segments.items() if any(asked in network for network in networks)
    ]
    part = f", segment {_listed(segments)}" if segments else ""
    return Check("source", f"{asked} is staff: {covering[0]}{part}")


def destination(facts: Evidence, way: Way) -> Iterator[Check]:
    """Which destination covers the address, and both of its names where there is a 1:1 mapping."""
    match, asked = way.match, facts.question.address
    if asked != match.address:
        yield Check("address", f"{asked} is an address of the far side; staff reach it as {match.address}")
    yield Check("destination", f"{match.carry.network} of {way.tunnel.name} covers {match.address}")
    if match.carry.real != match.carry.network:
        text = (
            f"staff use {match.address}, at the far side it is {match.real} ({match.carry.network} "
            f"stands for {match.carry.real})"
        )
        yield Check("mapping", text)
    others = [
        f"{alias.address} ({alias.tunnel})"
        for alias in aliases(facts.snapshot, asked)
        if alias.address != match.address
    ]
    if others and asked == match.address:
        yield Check("mapping", f"other far sides use {asked} too; staff reach those as {_listed(others)}")


def allowed(facts: Evidence, tunnel: Tunnel) -> Iterator[Check]:
    """May the sender enter this tunnel; nothing to say where everybody may."""
    if tunnel.allow is None:
        return
    rules = _listed(_allowance(each) for each in tunnel.allow) or "nobody"
    asked = facts.question.source
    if asked is None:
        yield Check("allow", f"{tunnel.name} lets in {rules}; --from ADDRESS asks for one sender")
        return
    open_to = [
        each
        for each in tunnel.allow
        if any(asked in network for network in facts.segments.get(each.segment, ()))
    ]
    right = [each for each in open_to if facts.question.port is None or _port_in(each, facts.question.port)]
    if right:
        yield Check("allow", f"{tunnel.name} lets in {_listed(_allowance(each) for each in right)}")
    elif open_to:
        yield Check(
            "allow",
            f"{tunnel.name} does not let {asked} to port {facts.question.port}, only {rules}",
            CheckStatus.PROBLEM,
        )
    else:
        yield Check("allow", f"{tunnel.name} does not let {asked} in, only {rules}", CheckStatus.PROBLEM)


def tunnels(facts: Evidence, way: Way) -> Iterator[Check]:
    """Who could carry the destination, in the order of priority, and who does."""
    able = list(candidates(facts.snapshot, way.match.carry.network))
    for tunnel, state in able:
        carries = tunnel.name == way.tunnel.name
        rank = f", priority {tunnel.priority}" if len(able) > 1 else ""
        role = "stands by" if not carries else "carries it" if takes(state) else "should carry it"
        enters = takes(state) and state.drain is None
        mark = (
            (CheckStatus.OK if well(tunnel, state) else CheckStatus.WARNING)
            if enters or not carries
            else CheckStatus.PROBLEM
        )
        full = "; it drains and takes nothing new" if state.drain is not None else ""
        text = (
            f"{tunnel.name} ({tunnel.kind}{rank}) {role}: "
            f"{condition(facts, tunnel, state)}{full}{_turn(facts, way, tunnel, state)}"
        )
        yield Check("tunnel", text, mark)


def takes(state: TunnelState) -> bool:
    """Does it carry packets, be it that no probe target behind it answers."""
    return up(state) or (state.phase is Phase.UP and state.reason is Reason.DESTINATION)


def condition(facts: Evidence, tunnel: Tunnel, state: TunnelState) -> str:
    """How a tunnel is, since when and why, such as `healthy since 2026-01-01T00:00:00Z (3 h 12 min)`."""
    now = facts.snapshot.now
    if up(state):
        if well(tunnel, state):
            badly = "" if state.liveness.degraded is None else f", but works badly: {state.liveness.degraded}"
            return (
                f"{'healthy' if state.health is Health.HEALTHY else 'connected'} "
                f"{_since(facts, state.well_since)}{badly}"
            )
        return f"connected, not proven by a probe yet, {_since(facts, state.since)}"
    if state.phase is Phase.STOPPED:
        who = "because the daemon ends" if state.reason is Reason.SHUTDOWN else "by an operator"
        return f"stopped {who} {_since(facts, state.since)}"
    why = f" because {state.failure.reason}: {state.failure.text}" if state.failure is not None else ""
    leg = dead_leg(tunnel, state, facts.snapshot.uplink)
    if takes(state):
        return f"connected, and its {leg} is dead {_since(facts, state.well_since)}{why}; its session goes on"
    dead = "" if leg is None else f" at the {leg}"
    wait = "" if state.deadline is None else f" in {lasting(state.deadline - now)}"
    return (
        f"down {_since(facts, state.well_since)}{dead}{why}; "
        f"{_NEXT[state.phase]}{wait if state.phase is Phase.BACKOFF else ''}"
    )


_NEXT: Mapping[Phase, str] = MappingProxyType(
    {
        Phase.STARTING: "it is connecting now",
        Phase.UP: "its session is given up",
        Phase.BACKOFF: "the next attempt follows",
        Phase.STOPPING: "its client is being ended",
        Phase.FAILED: "it waits for a person",
    }
)


def _turn(facts: Evidence, way: Way, tunnel: Tunnel, state: TunnelState) -> str:
    """When a better tunnel that is well again takes over."""
    if tunnel.name == way.tunnel.name or tunnel.priority >= way.tunnel.priority or not well(tunnel, state):
        return ""
    left = state.well_since + tunnel.reconnect.stable_after - facts.snapshot.now
    return f"; it takes over in {lasting(left)} if it stays so" if left > 0 else ""


def session(facts: Evidence, way: Way) -> Iterator[Check]:
    """The client that runs, and what probes say."""
    state, now = way.state, facts.snapshot.now
    if not state.running:
        yield Check("session", "no client runs")
        return
    run = state.session
    parts = [f"session {run.id or run.number}", f"process {run.pid or 'not started yet'}"]
    parts += [
        f"{word} {value}"
        for word, value in (("address", run.address or run.address6), ("far side", run.peer))
        if value is not None
    ]
    parts.append(
        "not connected yet" if run.connected is None else f"connected {_since(facts, run.connected)}"
    )
    yield Check("session", ", ".join(parts))
    if not way.tunnel.probe.targets:
        yield Check("probe", "no probe.targets, so being connected is all that is known", CheckStatus.WARNING)
    elif state.liveness.misses:
        yield Check(
            "probe", f"{state.liveness.misses} rounds in a row without an answer", CheckStatus.WARNING
        )
    elif state.liveness.last_rtt is not None:
        held = (
            ""
            if state.liveness.healthy_since is None
            else f", healthy for {lasting(now - state.liveness.healthy_since)} in this session"
        )
        yield Check("probe", f"the last one was answered in {state.liveness.last_rtt * 1000:.1f} ms{held}")
    else:
        yield Check("probe", "none was answered yet")


def failures(facts: Evidence, tunnel: str) -> Iterator[Check]:
    """Why the last sessions ended, the newest first."""
    known = facts.failures.get(tunnel, ())
    if not known:
        yield Check("failures", "none is remembered")
    for failure in reversed(known):
        yield Check("failure", f"{_since(facts, failure.at, 'ago')}: {failure.reason}: {failure.text}")


# --- the kernel
# ----------------------------------------------------------------------------------------------------------


def held(facts: Evidence, way: Way) -> Iterator[Check]:
    """Mark, rule, table and nftables: what there should be for this packet, and what really is."""
    actual, lane = facts.kernel.layout, way.lane
    if actual is None:
        yield Check("kernel", f"cannot be read: {facts.kernel.problem}", CheckStatus.WARNING)
        return
    target = wanted(replace(facts.plan, lanes=(lane,)), facts.kernel.host)
    version = way.match.address.version
    yield Check("lane", f"packet mark, connection mark and routing table {lane.number}")
    # How it is found among many: a rule that only saves time stops nobody by being missing.
    all_rules = leading(tuple(each.number for each in facts.plan.lanes), (version,))
    rules = [rule for rule in all_rules if rule.mark == lane.number and rule.kind == "lookup"]
    yield _compared("rule", rules, actual)
    yield _compared("table", _routes(target, lane.number, version), actual)
    yield from _foreign(actual, target, lane.number, version)
    closed = [
        route for route in _routes(target, MAIN_TABLE, version) if route.network == way.match.carry.network
    ]
    yield _compared("closed", closed, actual, "without it a packet could leave in clear")
    yield _nftables(actual, target, way)


def _routes(layout: Layout, table: int, version: int) -> list[Route]:
    found = [route for route in layout.routes if route.table == table and route.network.version == version]
    return sorted(found, key=lambda route: route.metric)


def _foreign(actual: Layout, target: Layout, table: int, version: int) -> Iterator[Check]:
    extra = [route for route in _routes(actual, table, version) if route not in target.routes]
    if extra:
        yield Check("table", f"there is also: {_listed(extra)}", CheckStatus.WARNING)


def _compared(name: str, items: Sequence[Route | Rule], actual: Layout, remark: str = "") -> Check:
    missing = [item for item in items if item not in actual]
    if missing:
        return Check(
            name,
            f"missing in the kernel: {_listed(missing)}" + (f"; {remark}" if remark else ""),
            CheckStatus.PROBLEM,
        )
    return Check(name, _listed(str(item).removeprefix("rule ").removeprefix("route ") for item in items))


def _nftables(actual: Layout, target: Layout, way: Way) -> Check:
    """Only elements that concern this lane or this address count."""
    if not actual.table:
        return Check("nftables", "table inet facilitator is missing or was changed", CheckStatus.PROBLEM)
    mine = [e for e in target.elements if _concerns(e, way) or e.set == f"staff{way.match.address.version}"]
    missing = sorted(str(element) for element in mine if element not in actual.elements)
    if missing:
        return Check(
            "nftables", f"missing in table inet facilitator: {_listed(missing)}", CheckStatus.PROBLEM
        )
    return Check(
        "nftables", f"table inet facilitator holds all {len(mine)} elements for this address and lane"
    )


_OF_SENDERS = ("refused", "allowed")  # sets whose addresses are those of senders


def _concerns(element: Element, way: Way) -> bool:
    parts = {part for part in (*element.key, *element.value) if not isinstance(part, Interval)}
    spans = [part for part in element.key if isinstance(part, Interval)]
    address = way.match.address
    if spans and not element.set.startswith(_OF_SENDERS):
        return any(
            span.version == address.version and span.first <= int(address) <= span.last for span in spans
        )
    return way.lane.number in parts or (way.lane.device is not None and way.lane.device in parts)


def carrier(facts: Evidence, way: Way) -> Iterator[Check]:
    """The device, or the proxy's port, and what the far side sees as the sender."""
    if way.lane.device is None:
        yield _proxy(facts, way)
        return
    name, version = way.lane.device, way.match.address.version
    device = facts.kernel.host.devices.get(name)
    gone = CheckStatus.PROBLEM if way.lane.up else CheckStatus.OK
    if device is None:
        yield Check("device", f"{name} does not exist now", gone)
        return
    link = "up" if device.up else "down"
    fits = way.state.session.path_mtu
    path = "" if fits is None else f"; packets of up to {fits} bytes get through the tunnel"
    yield Check(
        "device", f"{name} is {link}, MTU {device.mtu} bytes{path}", CheckStatus.OK if device.up else gone
    )
    assigned = [address for address in way.lane.addresses if address.version == version]
    if seen := assigned if way.lane.addresses else facts.kernel.addresses:
        yield Check("nat", f"source NAT: the remote gateway sees {_listed(seen)}")
    elif way.lane.addresses or way.state.session.on_interface:
        yield Check(
            "nat", f"the remote gateway has assigned no IPv{version} address, so no packet can enter", gone
        )
    else:
        text = (
            f"the remote gateway has assigned no IPv{version} address, so it sees one of this host's "
            f"other addresses"
        )
        yield Check("nat", text, CheckStatus.WARNING if way.lane.up else CheckStatus.OK)


def _proxy(facts: Evidence, way: Way) -> Check:
    port = way.lane.port
    if port is None:
        return Check("proxy", "no port takes connections now")
    if facts.kernel.listening is False:
        return Check(
            "proxy",
            f"nothing listens on port {port} of this host, where TCP is redirected to",
            CheckStatus.PROBLEM,
        )
    return Check(
        "proxy",
        f"TCP is redirected to port {port} of this host, where the client listens; anything but TCP is "
        f"rejected",
    )


def routing(facts: Evidence, way: Way) -> Iterator[Check]:
    """What the kernel itself says about the packet and its answers."""
    kernel = facts.kernel
    if kernel.forwarding is False:
        yield Check(
            "forwarding",
            f"IPv{way.match.address.version} forwarding is switched off in this host's kernel",
            CheckStatus.PROBLEM,
        )
    if kernel.onward is not None:
        right = kernel.onward.device == way.lane.device
        table = "" if kernel.onward.table is None else f" (table {kernel.onward.table})"
        yield Check(
            "route",
            f"the kernel sends it {kernel.onward}{table}",
            CheckStatus.OK if right or not way.lane.up else CheckStatus.PROBLEM,
        )
    if kernel.back is not None:
        yield _return_route(facts, kernel.back)


def _return_route(facts: Evidence, back: Lookup) -> Check:
    """Answers must leave by the interface that leads to the staff: never into a tunnel, nor to this host
    itself.
    """
    wrong = CheckStatus.PROBLEM if facts.question.source is not None else CheckStatus.WARNING
    tunnel = next(
        (lane.tunnel for lane in facts.plan.lanes if lane.device is not None and lane.device == back.device),
        None,
    )
    if tunnel is not None:
        return Check(
            "way back",
            f"answers would go into tunnel {tunnel} ({back}); a route of another program leads there",
            CheckStatus.PROBLEM,
        )
    if back.device == "lo":
        return Check(
            "way back",
            f"answers would stay on this host ({back}): it has that address itself",
            CheckStatus.PROBLEM,
        )
    return Check("way back", f"answers go {back}", CheckStatus.OK if back.device is not None else wrong)


_ASTRAY = (
    "came in by another interface than the one that leads back to their sender, and were refused (all "
    "tunnels, since our table was made); "
    "make the routes of this host and of the staff's network agree"
)


def counters(facts: Evidence, way: Way) -> Iterator[Check]:
    """Bytes of the device, and packets that our rules refused."""
    if facts.kernel.traffic is not None:
        received, sent = facts.kernel.traffic
        yield Check("bytes", f"{way.lane.device}: {size(received)} received, {size(sent)} sent")
    turned_away = {
        segment: count
        for (tunnel, segment), count in sorted(facts.kernel.turned_away.items())
        if tunnel == way.tunnel.name
    }
    if turned_away:
        counts = _listed(f"{segment or 'in no segment'} {count}" for segment, count in turned_away.items())
        yield Check("not allowed", f"packets that {way.tunnel.name} did not let in, by segment: {counts}")
    if facts.kernel.refused:
        counts = _listed(f"{chain} {count}" for chain, count in sorted(facts.kernel.refused.items()))
        yield Check("refused", f"packets of all tunnels, since our table was made: {counts}")
    if astray := facts.kernel.refused.get("prerouting", 0):
        yield Check("way in", f"{astray} packets of staff {_ASTRAY}", CheckStatus.WARNING)


# --- words
# ----------------------------------------------------------------------------------------------------------


def _since(facts: Evidence, moment: float, form: str = "") -> str:
    held_for, at = lasting(facts.snapshot.now - moment), iso(facts.wall_offset + moment)
    return f"{at} ({held_for} ago)" if form else f"since {at} ({held_for})"


def _listed(items: Iterable[object]) -> str:
    return ", ".join(str(item) for item in items)


def _allowance(each: Allowance) -> str:
    return each.segment if each.ports is None else f"{each.segment} to {_listed(each.ports)}"


def _port_in(each: Allowance, port: int) -> bool:
    """TCP only: that is what a question is about."""
    if each.ports is None:
        return True
    spans = (text.removeprefix("tcp/").split("-") for text in each.ports if text.startswith("tcp/"))
    return any(int(span[0]) <= port <= int(span[-1]) for span in spans)


def nearest(
    networks: Iterable[tuple[IPNetwork, str]], address: IPAddress, count: int = 3
) -> list[tuple[IPNetwork, str]]:
    """The networks (with their tunnels) that lie closest to the address."""

    def distance(entry: tuple[IPNetwork, str]) -> int:
        span = Interval.of(entry[0])
        return max(span.first - int(address), int(address) - span.last, 0)

    return sorted((entry for entry in networks if entry[0].version == address.version), key=distance)[:count]
