"""The second hop as values: lanes of members, whose unknown connections are, what the kernel should hold."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core import events as ev
from supervisor.core.conditions import of_tunnels
from supervisor.core.fleet.carriers import carrying_tunnels, newly_carried, previous_carriers
from supervisor.core.fleet.member_status import MemberStanding, MemberStatus, MemberTunnel
from supervisor.core.network.intervals import Interval
from supervisor.core.network.lanes import FIRST_MEMBER, LAST_LANE, LAST_MEMBER, NOBODY
from supervisor.core.network.layout import Device, Element, HostFeatures, Layout
from supervisor.core.network.plan import Announced, Carry, Lane, NetworkPlan, Offer
from supervisor.core.network.running_flows import to_forget
from supervisor.core.network.second_hop import (
    NEXT_HOP,
    OtherMember,
    handed_over,
    interface_name,
    link_layer_address,
    member_lanes,
    member_numbers,
    network_identifier,
)
from supervisor.core.network.wanted import wanted
from supervisor.core.session.tunnel_set import TunnelSet, fold
from supervisor.core.snapshot import Snapshot

ACME, OWN = ip_network("10.77.0.0/24"), ip_network("10.90.0.0/16")
CARRIES = (Carry(ACME, 173001, ACME), Carry(OWN, 173002, OWN))
VPN2 = OtherMember("vpn2", ip_address("172.31.2.2"), port=4790)
VPN3 = OtherMember("vpn3", ip_address("172.31.3.2"), port=4790)
NAMES = st.sets(st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=30), max_size=49)


def plan(
    *members: OtherMember, answering: str = "vpn2 vpn3", carried: dict[int, str] | None = None
) -> NetworkPlan:
    lanes = member_lanes(members, frozenset(answering.split()))
    return NetworkPlan(carries=CARRIES, members=lanes, handed_over=handed_over(lanes, CARRIES, carried or {}))


def host(*devices: str, shared: dict[str, str] | None = None) -> HostFeatures:
    made = {name: Device(number, 1450, True, True) for number, name in enumerate(("lo", *devices), 1)}
    return HostFeatures(made, shared=shared or {})


@given(NAMES, st.text("xyz", min_size=1, max_size=4))
def test_each_member_has_a_lane_of_its_own_beside_those_of_tunnels(names: set[str], more: str) -> None:
    numbers = member_numbers(names)
    assert len(set(numbers.values())) == len(names)
    assert all(LAST_LANE < NOBODY < FIRST_MEMBER <= number <= LAST_MEMBER for number in numbers.values())
    moved = {
        name for name, number in member_numbers({*names, more}).items() if numbers.get(name, number) != number
    }
    assert len(moved) <= 2, "who else is a member hardly matters"


@given(NAMES)
def test_interfaces_have_names_that_the_kernel_takes(names: set[str]) -> None:
    made = {interface_name(name) for name in names}
    assert len(made) == len(names)
    assert all(len(name) <= 15 for name in made)


def test_both_ends_come_to_the_same_network() -> None:
    one, other = ip_address("172.31.1.2"), ip_address("fd00::1")
    assert network_identifier(one, other) == network_identifier(other, one)
    assert 0 < network_identifier(one, other) < 2**24
    assert link_layer_address(one) != link_layer_address(other)
    assert link_layer_address(one)[0] & 3 == 2, "a locally administered address of one station"


@pytest.mark.parametrize(
    ("members", "carried", "expected"),
    [
        ((), {}, []),
        ((VPN2,), {}, ["vpn2", "vpn2"]),  # it was the other one: who else
        ((VPN2, VPN3), {}, ["", ""]),
        ((VPN2, VPN3), {173001: "vpn3"}, ["vpn3", ""]),
        ((VPN2, VPN3), {173001: "who"}, ["", ""]),
    ],
)
def test_whose_unknown_connections_are(
    members: tuple[OtherMember, ...], carried: dict[int, str], expected: list[str]
) -> None:
    made = plan(*members, carried=carried)
    names = {lane.number: lane.member for lane in made.members} | {NOBODY: ""}
    assert [names[each.lane] for each in made.handed_over] == expected


def status(**standings: str) -> MemberStatus:
    return MemberStatus(
        tunnels=tuple(MemberTunnel(name, MemberStanding(word)) for name, word in standings.items())
    )


@pytest.mark.parametrize(
    ("before", "statuses", "expected"),
    [
        ({}, {"vpn2": status(acme="carries"), "vpn3": status(acme="ready")}, {"acme": "vpn2"}),
        ({}, {"vpn2": status(acme="drains"), "vpn3": status(acme="ready")}, {"acme": "vpn2"}),
        ({}, {"vpn1": status(acme="carries"), "vpn2": status(acme="ready")}, {}),  # we do
        ({"acme": "vpn2"}, {"vpn2": status(acme="ready"), "vpn3": status(acme="ready")}, {"acme": "vpn2"}),
        ({"acme": "vpn2"}, {"vpn3": status(acme="ready")}, {"acme": "vpn2"}),  # it is gone
        (
            {"acme": "vpn2"},
            {"vpn2": status(acme="carries"), "vpn3": status(acme="carries")},
            {"acme": "vpn2"},
        ),
        ({"acme": "vpn2"}, {"vpn2": status(acme="ready"), "vpn3": status(acme="carries")}, {"acme": "vpn3"}),
    ],
)
def test_who_carried_before(
    before: dict[str, str], statuses: dict[str, MemberStatus], expected: dict[str, str]
) -> None:
    assert previous_carriers(before, statuses, "vpn1") == expected


def test_a_tunnel_carries_for_the_fleet_where_routers_send_new_flows() -> None:
    up = tuple(Lane(name, number, f"t-{name}", True) for name, number in (("acme", 173001), ("own", 173002)))
    lanes = replace(plan(VPN2), lanes=up)
    assert carrying_tunnels(lanes) == {"acme", "own"}, "nothing is announced: who knows"
    offers = (
        Announced(ACME, "acme", 173001, 90, 0.0, Offer.CARRIES),
        Announced(OWN, "own", 173002, 100, 0.0, Offer.WORKS),
    )
    assert carrying_tunnels(replace(lanes, announced=offers, announced_in=173)) == {"acme"}


def test_who_carried_before_is_part_of_the_snapshot() -> None:
    event = ev.MembersCarry("", carried=(("acme", "vpn2"),))
    step = fold(TunnelSet({}), event, 0.0, 0.0, 0.0)
    assert step.changed
    assert step.tunnel_set.snapshot(0.0).carried == (("acme", "vpn2"),)


def test_one_and_the_same_value_while_nothing_changes() -> None:
    assert plan(VPN2).handed_over is plan(VPN2, answering="").handed_over


def items(layout: Layout, lane: int) -> list[str]:
    found = [
        str(each) for each in (*layout.routes, *layout.rules, *layout.elements) if str(lane) in str(each)
    ]
    return sorted(found)


def test_what_the_kernel_holds_for_a_member() -> None:
    made = plan(VPN2)
    number = made.members[0].number
    layout = wanted(made, host("m-vpn2"))
    assert items(layout, number) == [
        f"element hops {number} . m-vpn2",
        f"element previous4 10.77.0.0/24 : {number}",
        f"element previous4 10.90.0.0/16 : {number}",
        f"element up {number}",
        f"route 0.0.0.0/0 unreachable table {number} metric 20000",
        f"route 0.0.0.0/0 via {NEXT_HOP[4]} dev m-vpn2 table {number} metric 100",
        f"route ::/0 unreachable table {number} metric 20000",
        f"route ::/0 via {NEXT_HOP[6]} dev m-vpn2 table {number} metric 100",
        f"rule -6 fwmark {number} lookup {number}",
        f"rule fwmark {number} lookup {number}",
    ]
    for each in (
        Element("arriving", ("m-vpn2",)),
        Element("handover", (4790,)),
        Element("members4", (_one(VPN2),)),
    ):
        assert each in layout.elements
    away = items(wanted(made, host()), number)
    assert not [line for line in away if "via" in line], "its interface is not there"
    silent = items(wanted(plan(VPN2, answering=""), host("m-vpn2")), number)
    assert f"element up {number}" not in silent
    assert f"route 0.0.0.0/0 via {NEXT_HOP[4]} dev m-vpn2 table {number} metric 100" in silent, "it is asked"


def test_a_neighbour_is_its_own_next_hop() -> None:
    made = plan(replace(VPN2, port=0))
    number = made.members[0].number
    layout = wanted(made, host("u0", shared={"vpn2": "u0"}))
    assert f"route 0.0.0.0/0 via 172.31.2.2 dev u0 table {number} metric 100" in items(layout, number)
    assert not [line for line in items(layout, number) if "::/0 via" in line], "it has no IPv6 address"
    assert Element("shared", ("u0",)) in layout.elements
    assert not {each.set for each in layout.elements} & {"arriving", "handover"}


def _one(member: OtherMember) -> Interval:
    return Interval(member.address.version, int(member.address), int(member.address))


def test_flows_with_a_member_that_is_gone_are_forgotten() -> None:
    before, after = plan(VPN2, VPN3), plan(VPN2, VPN3, answering="vpn3")
    (gone,) = {lane.number for lane in before.members if lane.member == "vpn2"}
    assert to_forget(before, after, {}, ()) == (gone,)
    assert to_forget(after, before, {}, ()) == ()
    assert to_forget(before, plan(VPN3), {}, ()) == (gone,)


def test_a_member_that_is_gone_is_a_condition_until_it_is_back() -> None:
    steps = [fold(TunnelSet({}), ev.MemberChanged("", member="vpn2", alive=False), 0.0, 0.0, 0.0)]
    steps.append(fold(steps[0].tunnel_set, ev.MemberChanged("", member="vpn2", alive=True), 1.0, 0.0, 0.0))
    assert [step.changed for step in steps] == [True, True]
    shown: list[list[str]] = [list(of_tunnels(step.tunnel_set.snapshot(1.0))) for step in steps]
    assert shown == [["member:vpn2"], []]
    assert Snapshot({}, 0.0).gone == frozenset()


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ({"vpn2": status(acme="ready")}, {"vpn2": status(acme="carries")}, {"acme"}),
        ({"vpn2": status(acme="carries")}, {"vpn2": status(acme="carries")}, set()),
        ({}, {"vpn2": status(acme="carries")}, set()),  # it was silent
        ({"vpn1": status(acme="ready")}, {"vpn1": status(acme="carries")}, set()),  # this member
    ],
)
def test_who_says_from_now_on_that_it_carries(
    before: dict[str, MemberStatus], now: dict[str, MemberStatus], expected: set[str]
) -> None:
    assert newly_carried(before, now, "vpn1") == expected
