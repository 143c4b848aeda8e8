"""The pure half: what a plan means for the kernel, and the order of changes."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.core.network.access import AccessPolicy, AccessRule, Segment
from supervisor.core.network.changes import Op, applied, diff
from supervisor.core.network.intervals import Interval, longest_prefix
from supervisor.core.network.layout import Device, Element, HostFeatures, Layout, Route
from supervisor.core.network.plan import Carry, Lane, Manner, NetworkPlan
from supervisor.core.network.rules import Rule
from supervisor.core.network.running_flows import given_up, kept_open
from supervisor.core.network.wanted import RouteCounts, route_counts, wanted
from tunnels.settings import Ports

ACME = ip_network("10.77.0.0/24")
ACME6 = ip_network("fd00:77::/64")
OWN = ip_network("10.90.0.0/16")
HOST = HostFeatures({"lo": Device(1, 65536, True, True), "t-acme": Device(7, 1400, True, True)})
PLAN = NetworkPlan(
    staff=(ip_network("10.8.0.0/16"), ip_network("fd00:8::/64")),
    lanes=(
        Lane("acme", 173001, "t-acme", True, addresses=(ip_address("10.78.0.2"), ip_address("fd00:78::2"))),
        Lane("own", 173002, None, True, 17300, share=480),
    ),
    carries=(
        Carry(ACME, 173001, ACME),
        Carry(OWN, 173002, OWN),
        Carry(ip_network("100.64.0.0/16"), 173001, ip_network("10.0.0.0/16")),
        Carry(ACME6, 173001, ACME6),
    ),
)
DOWN = replace(PLAN, lanes=(Lane("acme", 173001, "t-acme", False), Lane("own", 173002, None, False)))
PAUSED = replace(DOWN, lanes=tuple(replace(lane, manner=Manner.PAUSE) for lane in DOWN.lanes))
CLOSED = ("unreachable", "blackhole")
LIMITED = replace(
    PLAN,
    denied=(ip_address("10.8.1.7"), ip_address("fd00:8::7")),
    segments=(
        Segment("engineers", (ip_network("10.8.1.0/24"), ip_network("fd00:8::1:0/112"))),
        Segment("support", (ip_network("10.8.2.0/24"),)),
    ),
    gates=(
        AccessPolicy(
            "acme",
            173001,
            (
                AccessRule("engineers", None),
                AccessRule("support", (Ports("tcp", 443, 443), Ports("udp", 8000, 8100))),
            ),
        ),
    ),
)


def lines(before: Layout, after: Layout) -> list[str]:
    return [str(change) for change in diff(before, after)]


def test_the_path_limits_what_the_device_would_take() -> None:
    def narrowed(mtu: int | None) -> NetworkPlan:
        return replace(PLAN, lanes=(replace(PLAN.lanes[0], mtu=mtu), *PLAN.lanes[1:]))

    assert (
        lines(wanted(PLAN, HOST), wanted(narrowed(1300), HOST))
        == """\
- element mss4 t-acme : 1360
- element mss6 t-acme : 1340
+ element mss4 t-acme : 1260
+ element mss6 t-acme : 1240""".splitlines()
    )
    assert wanted(narrowed(9000), HOST) == wanted(PLAN, HOST)


def test_a_lane_that_is_given_up_for_others_stays_open_until_its_flows_are_moved() -> None:
    spare = Lane("spare", 173003, "t-spare", True)
    before = replace(PLAN, lanes=(*PLAN.lanes, spare))
    closed = replace(PLAN.lanes[0], up=False, addresses=())
    moved = tuple(replace(carry, lane=173003) if carry.lane == 173001 else carry for carry in PLAN.carries)
    after = replace(before, lanes=(closed, PLAN.lanes[1], spare), carries=moved)
    assert given_up(before, after) == (PLAN.lanes[0],)
    assert given_up(before, replace(after, lanes=after.lanes[1:])) == (PLAN.lanes[0],)
    between = kept_open(after, given_up(before, after))
    assert (
        lines(wanted(between, HOST), wanted(after, HOST))
        == """\
- element assigned4 173001 : 10.78.0.2/32
- element assigned6 173001 : fd00:78::2/128
- element mss4 t-acme : 1360
- element mss6 t-acme : 1340
- element up 173001
+ element masqueraded 173001
+ element refusing 173001
- route 0.0.0.0/0 dev t-acme table 173001 metric 100
- route ::/0 dev t-acme table 173001 metric 100""".splitlines()
    )
    assert given_up(before, replace(after, carries=PLAN.carries)) == ()  # nobody else carries it
    assert given_up(before, replace(after, carries=(PLAN.carries[0], *moved[1:]))) == ()  # nor all of it
    assert given_up(before, replace(after, lanes=(closed, PLAN.lanes[1], replace(spare, up=False)))) == ()
    assert given_up(after, after) == ()
    assert kept_open(after, ()) is after


def test_first_plan_closes_before_it_opens() -> None:
    assert (
        lines(Layout(), wanted(PLAN, HOST))
        == """\
+ route 10.77.0.0/24 unreachable metric 20000
+ route 10.90.0.0/16 unreachable metric 20000
+ route 100.64.0.0/16 unreachable metric 20000
+ route fd00:77::/64 unreachable metric 20000
+ route 0.0.0.0/0 unreachable table 173000 metric 20000
+ route 10.8.0.0/16 throw table 173000 metric 100
+ route ::/0 unreachable table 173000 metric 20000
+ route fd00:8::/64 throw table 173000 metric 100
+ route 0.0.0.0/0 unreachable table 173001 metric 20000
+ route ::/0 unreachable table 173001 metric 20000
+ route 0.0.0.0/0 unreachable table 173002 metric 20000
+ route ::/0 unreachable table 173002 metric 20000
+ rule iif t-acme lookup 173000 priority 175
+ rule -6 iif t-acme lookup 173000 priority 175
+ rule fwmark 173001 lookup 173001
+ rule -6 fwmark 173001 lookup 173001
+ rule fwmark 173002 lookup 173002
+ rule -6 fwmark 173002 lookup 173002
+ table inet facilitator
+ element assigned4 173001 : 10.78.0.2/32
+ element assigned6 173001 : fd00:78::2/128
+ element carry4 10.77.0.0/24 : 173001
+ element carry4 10.90.0.0/16 : 173002
+ element carry4 100.64.0.0/16 : 173001
+ element carry6 fd00:77::/64 : 173001
+ element destinations4 10.77.0.0/24
+ element destinations4 10.90.0.0/16
+ element destinations4 100.64.0.0/16
+ element destinations6 fd00:77::/64
+ element flows 173001
+ element flows 173002
+ element flows 174001
+ element flows 174002
+ element lanes 173001 . t-acme
+ element mss4 t-acme : 1360
+ element mss6 t-acme : 1340
+ element own 173001 . t-acme
+ element own 1073914825 . t-acme
+ element ports 173002 : 17300
+ element real4 173001 . 100.64.0.0/16 : 10.0.0.0/16
+ element received 173002
+ element received 174002
+ element sent 173002
+ element sent 174002
+ element share480 17300
+ element staff4 10.8.0.0/16
+ element staff6 fd00:8::/64
+ element tunnels t-acme
+ element unmoved 173001 . 173001
+ element unmoved 173002 . 173002
+ element up 173001
+ element up 173002
+ route 0.0.0.0/0 dev t-acme table 173001 metric 100
+ route ::/0 dev t-acme table 173001 metric 100
+ route 0.0.0.0/0 dev lo table 173002 metric 100
+ route ::/0 local dev lo table 173002 metric 100""".splitlines()
    )


def test_tunnel_down_and_up_changes_only_elements_and_its_routes() -> None:
    assert (
        lines(wanted(PLAN, HOST), wanted(DOWN, HOST))
        == """\
- element assigned4 173001 : 10.78.0.2/32
- element assigned6 173001 : fd00:78::2/128
- element mss4 t-acme : 1360
- element mss6 t-acme : 1340
- element ports 173002 : 17300
- element share480 17300
- element up 173001
- element up 173002
+ element masqueraded 173001
+ element refusing 173001
+ element refusing 173002
- route 0.0.0.0/0 dev t-acme table 173001 metric 100
- route ::/0 dev t-acme table 173001 metric 100
- route 0.0.0.0/0 dev lo table 173002 metric 100
- route ::/0 local dev lo table 173002 metric 100""".splitlines()
    )


def test_a_pause_is_other_routes_in_the_same_places() -> None:
    assert (
        lines(wanted(DOWN, HOST), wanted(PAUSED, HOST))
        == """\
+ route 0.0.0.0/0 blackhole table 173001 metric 20000
+ route ::/0 blackhole table 173001 metric 20000
+ route 0.0.0.0/0 blackhole table 173002 metric 20000
+ route ::/0 blackhole table 173002 metric 20000
- element refusing 173001
- element refusing 173002""".splitlines()
    )


def test_a_tunnel_that_leaves_is_open_last_and_closed_last() -> None:
    without = NetworkPlan(PLAN.staff, PLAN.lanes[:1], (PLAN.carries[0],))
    assert (
        lines(wanted(PLAN, HOST), wanted(without, HOST))
        == """\
- element carry4 10.90.0.0/16 : 173002
- element carry4 100.64.0.0/16 : 173001
- element carry6 fd00:77::/64 : 173001
- element destinations4 10.90.0.0/16
- element destinations4 100.64.0.0/16
- element destinations6 fd00:77::/64
- element flows 173002
- element flows 174002
- element ports 173002 : 17300
- element real4 173001 . 100.64.0.0/16 : 10.0.0.0/16
- element received 173002
- element received 174002
- element sent 173002
- element sent 174002
- element share480 17300
- element unmoved 173002 . 173002
- element up 173002
- route 0.0.0.0/0 dev lo table 173002 metric 100
- route ::/0 local dev lo table 173002 metric 100
- rule fwmark 173002 lookup 173002
- rule -6 fwmark 173002 lookup 173002
- route 10.90.0.0/16 unreachable metric 20000
- route 100.64.0.0/16 unreachable metric 20000
- route fd00:77::/64 unreachable metric 20000
- route 0.0.0.0/0 unreachable table 173002 metric 20000
- route ::/0 unreachable table 173002 metric 20000""".splitlines()
    )


def test_a_gate_is_one_block_of_elements() -> None:
    assert (
        lines(wanted(PLAN, HOST), wanted(LIMITED, HOST))
        == """\
+ element allowed4 173001 . 10.8.2.0/24 . tcp . 443
+ element allowed4 173001 . 10.8.2.0/24 . udp . 8000-8100
+ element denied4 10.8.1.7/32
+ element denied6 fd00:8::7/128
+ element refused4 173001 . 10.8.0.0/24
+ element refused4 173001 . 10.8.2.0/24
+ element refused4 173001 . 10.8.3.0-10.8.255.255
+ element refused6 173001 . fd00:8::/112
+ element refused6 173001 . fd00:8::2:0-fd00:8::ffff:ffff:ffff:ffff""".splitlines()
    )


def test_failover_is_one_block_of_elements() -> None:
    lanes = (*PLAN.lanes, Lane("acme-b", 173003, "t-b", True))
    before = wanted(NetworkPlan(PLAN.staff, lanes, (Carry(ACME, 173001, ACME),)), HOST)
    after = wanted(NetworkPlan(PLAN.staff, lanes, (Carry(ACME, 173003, ACME),)), HOST)
    assert lines(before, after) == [
        "- element carry4 10.77.0.0/24 : 173001",
        "+ element carry4 10.77.0.0/24 : 173003",
    ]


def test_removing_everything() -> None:
    changes = lines(wanted(DOWN, HOST), Layout())
    assert not [line for line in changes if "element" in line]  # they go with the table
    assert changes.index("- table inet facilitator") < changes.index(
        "- route 10.77.0.0/24 unreachable metric 20000"
    )


def test_no_route_into_a_device_that_is_missing_down_or_without_ipv6() -> None:
    def into(device: Device | None) -> list[str]:
        host = HostFeatures({"t-acme": device} if device else {})
        return sorted(str(route) for route in wanted(PLAN, host).routes if route.device == "t-acme")

    assert into(None) == []
    assert into(Device(7, 1400, up=False, ipv6=True)) == []
    assert into(Device(7, 1400, up=True, ipv6=False)) == [
        "route 0.0.0.0/0 dev t-acme table 173001 metric 100"
    ]


def test_a_kernel_without_ipv6_gets_none() -> None:
    layout = wanted(PLAN, HostFeatures(HOST.devices, ipv6=False))
    assert {route.network.version for route in layout.routes} == {4}
    assert {rule.version for rule in layout.rules} == {4}


def test_another_device_takes_the_place_of_the_first() -> None:
    moved = replace(PLAN, lanes=(replace(PLAN.lanes[0], device="t-new"), PLAN.lanes[1]))
    host = HostFeatures(HOST.devices | {"t-new": Device(9, 1400, True, False)})
    assert [str(c) for c in diff(wanted(PLAN, host), wanted(moved, host)) if isinstance(c.item, Route)] == [
        "+ route 0.0.0.0/0 dev t-new table 173001 metric 100",
        "- route ::/0 dev t-acme table 173001 metric 100",
    ]


def test_what_was_achieved_counts_the_tunnels_own_routes() -> None:
    layout = wanted(PLAN, HOST)
    assert route_counts(PLAN, HOST, layout) == {"acme": RouteCounts(7, 7), "own": RouteCounts(5, 5)}
    assert route_counts(PLAN, HOST, Layout())["acme"] == RouteCounts(7, 0)
    assert route_counts(PLAN, HostFeatures(), wanted(PLAN, HostFeatures()))["acme"] == RouteCounts(
        6, 5
    )  # the missing device
    assert route_counts(DOWN, HostFeatures(), wanted(DOWN, HostFeatures()))["acme"] == RouteCounts(5, 5)


def test_intervals_are_written_as_networks_where_they_are_some() -> None:
    assert str(Interval.of(ip_network("10.0.0.0/8"))) == "10.0.0.0/8"
    assert str(Interval(4, 10 << 24, (10 << 24) + 2)) == "10.0.0.0-10.0.0.2"
    assert str(Interval.of(ip_network("fd00::/64"))) == "fd00::/64"


# --- for all plans
# ----------------------------------------------------------------------------------------------------------

networks4 = st.builds(
    lambda n, p: IPv4Network((n << 24 >> p << p, 32 - p)), st.integers(8, 11), st.integers(20, 24)
) | st.builds(
    lambda n, p: IPv4Network(((10 << 24 | n) >> p << p, 32 - p)), st.integers(0, 63), st.integers(0, 6)
)
networks6 = st.builds(
    lambda n, p: IPv6Network(((0xFD << 120 | n) >> p << p, 128 - p)), st.integers(0, 15), st.integers(0, 4)
)
networks = (
    networks4
    | networks6
    | st.sampled_from([ip_network("0.0.0.0/0"), ip_network("255.255.255.255/32"), ip_network("::/0")])
)
numbers = st.integers(173001, 173004)


@settings(deadline=None)
@given(st.lists(st.tuples(networks, numbers)))
def test_intervals_say_what_the_longest_prefix_says(
    pairs: list[tuple[IPv4Network | IPv6Network, int]],
) -> None:
    found = longest_prefix(pairs)
    edges = {
        (n.version, int(a) + d)
        for n, _ in pairs
        for a in (n.network_address, n.broadcast_address)
        for d in (-1, 0, 1)
    }
    for version, address in edges:
        matches = [
            (n.prefixlen, -i, lane)
            for i, (n, lane) in enumerate(pairs)
            if n.version == version and int(n.network_address) <= address <= int(n.broadcast_address)
        ]
        values = [
            lane
            for interval, lane in found
            if interval.version == version and interval.first <= address <= interval.last
        ]
        assert values == ([max(matches)[2]] if matches else [])


devices = st.sampled_from([None, "t-a", "t-b", "t-c"])


def carry(network: IPv4Network | IPv6Network, lane: int, mapped: bool) -> Carry:
    real = next(network.supernet(2).subnets(2)) if mapped and network.prefixlen > 11 else network
    return Carry(network, lane, real)


@st.composite
def plans(draw: st.DrawFn) -> NetworkPlan:
    lanes = draw(
        st.lists(
            st.builds(
                lambda number, device, up, port, manner: Lane(
                    f"tunnel-{number}", number, device, up, port if up and device is None else None, manner
                ),
                numbers,
                devices,
                st.booleans(),
                st.none() | st.integers(17300, 17310),
                st.sampled_from(Manner),
            ),
            unique_by=lambda lane: lane.number,
        )
    )
    carries = draw(
        st.lists(st.builds(carry, networks, numbers, st.booleans()), unique_by=lambda carry: carry.network)
    )
    return NetworkPlan(tuple(draw(st.lists(networks, max_size=3))), tuple(lanes), tuple(carries))


hosts = st.builds(
    HostFeatures,
    st.dictionaries(
        st.sampled_from(["lo", "t-a", "t-b", "t-c"]),
        st.builds(Device, st.integers(1, 9), st.integers(50, 1500), st.booleans(), st.booleans()),
    ),
    st.booleans(),
)


@settings(deadline=None)
@given(plans(), hosts, plans(), hosts)
def test_the_changes_lead_there(
    a: NetworkPlan, here: HostFeatures, b: NetworkPlan, there: HostFeatures
) -> None:
    before, after = wanted(a, here), wanted(b, there)
    assert applied(Layout(), diff(Layout(), before)) == before
    assert applied(before, diff(before, after)) == after
    assert diff(after, after) == ()
    assert applied(before, diff(before, Layout())) == Layout()
    held = {route.place for route in before.routes}
    for change in diff(before, after):
        replaces = isinstance(change.item, Route) and change.op is Op.ADD and change.item.place in held
        assert change.replaces is replaces


@settings(deadline=None)
@given(plans(), hosts, plans(), hosts)
def test_a_destination_that_stays_is_closed_at_every_step(
    a: NetworkPlan, here: HostFeatures, b: NetworkPlan, there: HostFeatures
) -> None:
    before, after = wanted(a, here), wanted(b, there)
    stays = _closed(before) & _closed(after)
    layout = before
    for change in diff(before, after):
        layout = applied(layout, [change])
        assert stays <= _closed(layout)
        opened = (
            {route.table for route in layout.routes if route.kind not in CLOSED}
            if change.op is Op.ADD
            else set()
        )
        assert opened <= {table for _, table, _ in _closed(layout)}


def _closed(layout: Layout) -> set[tuple[object, int, int]]:
    return {route.place for route in layout.routes if route.kind in CLOSED}


@settings(deadline=None)
@given(plans(), hosts)
def test_keys_are_unique_and_intervals_disjoint(plan: NetworkPlan, host: HostFeatures) -> None:
    layout = wanted(plan, host)
    keys = [(element.set, element.key) for element in layout.elements]
    assert len(keys) == len(set(keys))
    by_set: dict[str, list[Interval]] = {}
    for element in layout.elements:
        if isinstance(element.key[0], Interval):
            by_set.setdefault(element.set, []).append(element.key[0])
    for intervals in by_set.values():
        intervals.sort(key=lambda interval: interval.first)
        assert all(left.last < right.first for left, right in zip(intervals, intervals[1:], strict=False))


def test_items_are_values() -> None:
    assert Rule(4, 1, 1) == Rule(4, 1, 1)
    assert str(Rule(6, 255, 9, priority=7, mask=0xFF)) == "rule -6 fwmark 255/0xff lookup 9 priority 7"
    assert (
        str(Rule(4, 0, 0, 100, kind="goto", target=173)) == "rule fwmark 0/0xffffffff goto 173 priority 100"
    )
    assert str(Rule(6, 0, 0, mask=0, kind="nop")) == "rule -6 nop"
    assert str(Element("up", (173001,))) == "element up 173001"
