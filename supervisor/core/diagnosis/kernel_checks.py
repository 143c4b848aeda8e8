"""`facilitator why`: the checks on what the kernel really holds for a packet, from the policy routing rule to
the counters.

rule (fwmark) -> routing table -> closing route in the main table -> nftables elements -> interface or proxy
port -> forwarding -> route out and back -> counters
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from supervisor.core.diagnosis.checks import Check, CheckStatus, listed
from supervisor.core.diagnosis.query import Evidence, PacketPath, RouteDecision
from supervisor.core.humanize import byte_size
from supervisor.core.network.intervals import Interval
from supervisor.core.network.layout import MAIN_TABLE, Element, Layout, Route
from supervisor.core.network.rules import Rule, leading
from supervisor.core.network.wanted import wanted


def held(evidence: Evidence, path: PacketPath) -> Iterator[Check]:
    """fwmark, policy routing rule, routing table and nftables elements of the lane: wanted and actual."""
    actual, lane = evidence.kernel.layout, path.lane
    if actual is None:
        yield Check("kernel", f"cannot be read: {evidence.kernel.problem}", CheckStatus.WARNING)
        return
    target = wanted(replace(evidence.plan, lanes=(lane,)), evidence.kernel.host)
    version = path.match.address.version
    yield Check("lane", f"packet mark, connection mark and routing table {lane.number}")
    # Only rules that lead into the lane's table: a missing rule of the search tree above stops no packet.
    all_rules = leading(tuple(each.number for each in evidence.plan.lanes), (version,))
    rules = [rule for rule in all_rules if rule.mark == lane.number and rule.kind == "lookup"]
    yield _compared("rule", rules, actual)
    yield _compared("table", _routes(target, lane.number, version), actual)
    yield from _foreign(actual, target, lane.number, version)
    closed = [
        route for route in _routes(target, MAIN_TABLE, version) if route.network == path.match.carry.network
    ]
    yield _compared("closed", closed, actual, "without it a packet could leave unencrypted")
    yield _nftables(actual, target, path)


def _routes(layout: Layout, table: int, version: int) -> list[Route]:
    found = [route for route in layout.routes if route.table == table and route.network.version == version]
    return sorted(found, key=lambda route: route.metric)


def _foreign(actual: Layout, target: Layout, table: int, version: int) -> Iterator[Check]:
    extra = [route for route in _routes(actual, table, version) if route not in target.routes]
    if extra:
        yield Check("table", f"there is also: {listed(extra)}", CheckStatus.WARNING)


def _compared(name: str, items: Sequence[Route | Rule], actual: Layout, remark: str = "") -> Check:
    missing = [item for item in items if item not in actual]
    if missing:
        return Check(
            name,
            f"missing in the kernel: {listed(missing)}" + (f"; {remark}" if remark else ""),
            CheckStatus.PROBLEM,
        )
    return Check(name, listed(str(item).removeprefix("rule ").removeprefix("route ") for item in items))


def _nftables(actual: Layout, target: Layout, path: PacketPath) -> Check:
    """Elements of other lanes and addresses are ignored."""
    if not actual.table:
        return Check("nftables", "table inet facilitator is missing or was changed", CheckStatus.PROBLEM)
    mine = [e for e in target.elements if _concerns(e, path) or e.set == f"staff{path.match.address.version}"]
    missing = sorted(str(element) for element in mine if element not in actual.elements)
    if missing:
        return Check("nftables", f"missing in table inet facilitator: {listed(missing)}", CheckStatus.PROBLEM)
    return Check(
        "nftables", f"table inet facilitator holds all {len(mine)} elements for this address and table"
    )


_SENDER_SETS = ("refused", "allowed", "denied")  # prefixes of nftables sets that hold addresses of senders


def _concerns(element: Element, path: PacketPath) -> bool:
    parts = {part for part in (*element.key, *element.value) if not isinstance(part, Interval)}
    spans = [part for part in element.key if isinstance(part, Interval)]
    address = path.match.address
    if spans and not element.set.startswith(_SENDER_SETS):
        return any(
            span.version == address.version and span.first <= int(address) <= span.last for span in spans
        )
    return path.lane.number in parts or (path.lane.device is not None and path.lane.device in parts)


def carrier(evidence: Evidence, path: PacketPath) -> Iterator[Check]:
    """The interface, or the proxy's port, and the source address that the remote gateway sees."""
    if path.lane.device is None:
        yield _proxy(evidence, path)
        return
    name, version = path.lane.device, path.match.address.version
    device = evidence.kernel.host.devices.get(name)
    gone = CheckStatus.PROBLEM if path.lane.up else CheckStatus.OK
    if device is None:
        yield Check("device", f"{name} does not exist now", gone)
        return
    link = "up" if device.up else "down"
    fits = path.state.session.path_mtu
    limit = "" if fits is None else f"; packets of up to {fits} bytes get through the tunnel"
    yield Check(
        "device", f"{name} is {link}, MTU {device.mtu} bytes{limit}", CheckStatus.OK if device.up else gone
    )
    assigned = [address for address in path.lane.addresses if address.version == version]
    if seen := assigned if path.lane.addresses else evidence.kernel.addresses:
        yield Check("nat", f"source NAT: the remote gateway sees {listed(seen)}")
    elif path.lane.addresses or path.state.session.on_interface:
        yield Check(
            "nat", f"the remote gateway has assigned no IPv{version} address, so no packet can enter", gone
        )
    else:
        text = (
            f"the remote gateway has assigned no IPv{version} address, so it sees one of this host's "
            f"other addresses"
        )
        yield Check("nat", text, CheckStatus.WARNING if path.lane.up else CheckStatus.OK)


def _proxy(evidence: Evidence, path: PacketPath) -> Check:
    port = path.lane.port
    if port is None:
        return Check("proxy", "no port takes connections now")
    if evidence.kernel.listening is False:
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


def routing(evidence: Evidence, path: PacketPath) -> Iterator[Check]:
    """Forwarding, and the routes that the kernel itself would take for the packet and its answers."""
    kernel = evidence.kernel
    if kernel.forwarding is False:
        yield Check(
            "forwarding",
            f"IPv{path.match.address.version} forwarding is switched off in this host's kernel",
            CheckStatus.PROBLEM,
        )
    if kernel.onward is not None:
        right = kernel.onward.device == path.lane.device
        table = "" if kernel.onward.table is None else f" (table {kernel.onward.table})"
        yield Check(
            "route",
            f"the kernel sends it {kernel.onward}{table}",
            CheckStatus.OK if right or not path.lane.up else CheckStatus.PROBLEM,
        )
    if kernel.back is not None:
        yield _return_route(evidence, kernel.back)


def _return_route(evidence: Evidence, back: RouteDecision) -> Check:
    """Answers must leave by the interface that leads to staff: never into a tunnel, nor to this host."""
    wrong = CheckStatus.PROBLEM if evidence.query.source is not None else CheckStatus.WARNING
    tunnel = next(
        (
            lane.tunnel
            for lane in evidence.plan.lanes
            if lane.device is not None and lane.device == back.device
        ),
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
    "tunnels, since facilitator's table was created); "
    "make the routes of this host and of the staff's network agree"
)


def counters(evidence: Evidence, path: PacketPath) -> Iterator[Check]:
    """Bytes of the interface, and packets that our nftables rules refused."""
    if evidence.kernel.traffic is not None:
        received, sent = evidence.kernel.traffic
        yield Check("bytes", f"{path.lane.device}: {byte_size(received)} received, {byte_size(sent)} sent")
    turned_away = {
        segment: count
        for (tunnel, segment), count in sorted(evidence.kernel.turned_away.items())
        if tunnel == path.tunnel.name
    }
    if turned_away:
        counts = listed(f"{segment or 'in no segment'} {count}" for segment, count in turned_away.items())
        yield Check("not allowed", f"packets that {path.tunnel.name} did not let in, by segment: {counts}")
    if evidence.kernel.refused:
        counts = listed(f"{chain} {count}" for chain, count in sorted(evidence.kernel.refused.items()))
        yield Check("refused", f"packets of all tunnels, since facilitator's table was created: {counts}")
    if astray := evidence.kernel.refused.get("prerouting", 0):
        yield Check("way in", f"{astray} packets of staff {_ASTRAY}", CheckStatus.WARNING)
