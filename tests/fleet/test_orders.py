"""Orders to a fleet: what the engine's values mean, what a member does because of them, and what it says."""

from __future__ import annotations

import contextlib
import json
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.events import Asked
from supervisor.core.fleet.member_status import (
    MemberStanding,
    MemberStatus,
    MemberTunnel,
    member_status,
    read_status,
    read_status_document,
    standing_of,
)
from supervisor.core.fleet.obedience import addresses_of, finished, obeying
from supervisor.core.fleet.orders import (
    MOST_ORDERS,
    NO_DEMANDS,
    Acknowledgement,
    Demands,
    FleetOrder,
    OrderKind,
    acknowledged,
    demands,
    holding,
    new_order,
    read_acknowledgement,
    read_order,
    reading,
)
from supervisor.core.fleet.view import FleetSight, fleet_document, read_acknowledgements, read_statuses, seen
from supervisor.core.identity.book import Holding
from supervisor.core.lock_view import LockView
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Drain, Health, Phase, TunnelState, Want
from tests.simulation.test_worlds import tunnel
from tests.states import tunnel_state
from tunnels.base import Reason

STOP = FleetOrder(OrderKind.STOP, "acme", "alice@vpn1", "asked for", 10.5)
DRAIN = FleetOrder(OrderKind.DRAIN, "vpn2", "bob", "", 11.0)
DENY = FleetOrder(OrderKind.END_USER, "10.8.1.7", "bob", "laptop lost", 12.0)
DENY6 = FleetOrder(OrderKind.END_USER, "fd00:8::7", "bob", "", 13.0)
ALL = (STOP, DRAIN, DENY, DENY6)
UP = tunnel_state(phase=Phase.UP, want=Want.UP, health=Health.HEALTHY)
DOWN = tunnel_state(phase=Phase.STOPPED, want=Want.DOWN)
STOPPING = tunnel_state(phase=Phase.STOPPING, want=Want.DOWN)
DRAINS = tunnel_state(phase=Phase.UP, want=Want.UP, health=Health.HEALTHY, drain=Drain(Reason.STOPPED, 99.0))
UNTIL = 500.0

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
order_like = st.fixed_dictionaries({}, optional=dict.fromkeys(("by", "why", "given", "format"), anything))
values = st.text() | st.builds(json.dumps, anything) | st.builds(json.dumps, order_like)
names = st.sampled_from([order.id for order in ALL]) | st.text() | st.builds("stop.{}".format, st.text())


def snapshot(**states: TunnelState) -> Snapshot:
    return Snapshot({name: (tunnel(name), state) for name, state in states.items()}, 100.0)


@pytest.mark.parametrize("order", ALL)
def test_an_order_is_read_as_it_was_written(order: FleetOrder) -> None:
    assert read_order(order.id, order.content) == order
    assert new_order(order.kind, order.subject, order.by, order.why, order.given) == order


@pytest.mark.parametrize(
    ("id", "content"),
    [
        ("halt.acme", STOP.content),
        ("stop", STOP.content),
        ("stop.", STOP.content),
        ("stop.Acme", STOP.content),
        ("stop.acme/../x", STOP.content),
        ("drain.a b", STOP.content),
        ("end-user.10.8.1", STOP.content),
        ("end-user.10.8.0.0/16", STOP.content),
        ("end-user.fe80::1%eth0", STOP.content),
        ("end-user.FD00:8::7", STOP.content),  # not as we write it: two names for one address
        ("stop.acme", ""),
        ("stop.acme", "[]"),
        ("stop.acme", "{}"),
        ("stop.acme", '{"given": "now"}'),
        ("stop.acme", '{"given": true}'),
        ("stop.acme", '{"given": 1e400}'),
        ("stop.acme", '{"given": 1, "by": 7}'),
        ("stop.acme", "[" * 4000),
        ("stop.acme", json.dumps({"given": 1, "why": "x" * 5000})),
    ],
)
def test_what_is_no_order_is_refused_in_words(id: str, content: str) -> None:
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        read_order(id, content)


def test_what_people_wrote_is_one_safe_line() -> None:
    content = json.dumps({"given": 1, "by": "a\x1b[2Jb\nc", "why": "w" * 1000, "later": {"key": []}})
    order = read_order("stop.acme", content)
    assert order.by == "ab c"
    assert order.why == "w" * 200


@pytest.mark.parametrize("given_at", [1e15, -1.0])
def test_a_moment_of_which_no_date_can_be_made_is_not_understood(given_at: float) -> None:
    with pytest.raises(ValueError, match="given is no Unix time"):
        read_order(STOP.id, json.dumps({"given": given_at}))


def test_what_is_said_about_a_long_name_is_short() -> None:
    (problem,) = reading((), {"end-user." + "x" * 100_000: "{}"}).problems
    assert len(problem) < 1000


@given(st.dictionaries(names, values, max_size=5), st.lists(st.sampled_from(ALL), unique=True))
def test_whatever_the_engine_says_an_order_ends_only_with_its_key(
    found: dict[str, str], before: list[FleetOrder]
) -> None:
    read = reading(before, found)
    ids = {order.id for order in read.orders}
    assert ids <= found.keys()
    assert {order.id for order in before} & found.keys() <= ids
    assert len(read.problems) <= 6
    for order in read.orders:
        assert read_order(order.id, order.content) == order


def test_too_many_orders_add_none_and_lift_none() -> None:
    many = {f"stop.t{number}": STOP.content for number in range(MOST_ORDERS)}
    assert len(reading((), many).orders) == MOST_ORDERS
    more = many | {STOP.id: STOP.content}
    read = reading((STOP, DRAIN), more)
    assert read.orders == (STOP,)
    assert "at most 500" in read.problems[0]


def test_what_orders_demand_of_a_member() -> None:
    addresses = (ip_address("10.8.1.7"), ip_address("fd00:8::7"))
    assert demands(ALL, "vpn1") == Demands(frozenset({"acme"}), False, addresses)
    assert demands(ALL, "vpn2") == Demands(frozenset({"acme"}), True, addresses)
    assert demands((), "vpn1") == NO_DEMANDS
    assert [holding(ALL, "vpn1", name) for name in ("acme", "globex")] == [STOP, None]
    assert holding(ALL, "vpn2", "globex") == DRAIN


STOPPED = Demands(frozenset({"acme"}))
DRAINED = Demands(drained=True)
HALT, EBB = Asked("acme", reason=Reason.STOPPED), Asked("acme", reason=Reason.STOPPED, until=UNTIL)
GO = Asked("acme", reason=Reason.STARTED)


@pytest.mark.parametrize(
    ("before", "now", "state", "expected"),
    [
        (NO_DEMANDS, STOPPED, UP, [HALT]),
        (NO_DEMANDS, STOPPED, DRAINS, [HALT]),
        (NO_DEMANDS, STOPPED, DOWN, []),
        (NO_DEMANDS, DRAINED, UP, [EBB]),
        (NO_DEMANDS, DRAINED, DRAINS, []),
        (NO_DEMANDS, DRAINED, DOWN, []),
        (DRAINED, STOPPED, DRAINS, [HALT]),
        (STOPPED, DRAINED, DOWN, []),
        (STOPPED, NO_DEMANDS, DOWN, [GO]),
        (DRAINED, NO_DEMANDS, DRAINS, [GO]),
        (DRAINED, NO_DEMANDS, DOWN, [GO]),
        (NO_DEMANDS, NO_DEMANDS, DRAINS, [GO]),  # lifted while no daemon ran
        (NO_DEMANDS, NO_DEMANDS, DOWN, []),
        (NO_DEMANDS, NO_DEMANDS, UP, []),
    ],
)
def test_what_a_tunnel_is_asked_for(
    before: Demands, now: Demands, state: TunnelState, expected: list[Asked]
) -> None:
    assert list(obeying(before, now, snapshot(acme=state), (), UNTIL)) == expected


def test_a_lifted_order_starts_nothing_that_the_members_own_operator_has_stopped() -> None:
    assert list(obeying(STOPPED, NO_DEMANDS, snapshot(acme=DOWN), {"acme"}, UNTIL)) == []
    assert list(obeying(DRAINED, NO_DEMANDS, snapshot(acme=DRAINS), {"acme"}, UNTIL)) == []


def test_a_daemon_that_ends_obeys_nothing_more() -> None:
    ending = Snapshot({"acme": (tunnel("acme"), DRAINS)}, 100.0, draining=True)
    assert list(obeying(DRAINED, NO_DEMANDS, ending, (), UNTIL)) == []


def test_when_an_order_is_done() -> None:
    denied = (ip_address("10.8.1.7"),)
    assert finished(ALL, "vpn1", snapshot(acme=UP), denied) == {DRAIN.id: "", DENY.id: ""}
    assert finished(ALL, "vpn2", snapshot(acme=STOPPING), ()) == {DRAIN.id: ""}
    assert finished(ALL, "vpn2", snapshot(acme=DOWN, globex=UP), ()) == {STOP.id: ""}
    assert finished(ALL, "vpn2", snapshot(acme=DOWN, globex=DRAINS), ()) == {STOP.id: "", DRAIN.id: ""}
    assert finished([STOP], "vpn1", snapshot(globex=UP), ()) == {STOP.id: "has no such tunnel"}


def test_an_acknowledgement_keeps_its_moment_until_the_order_is_another_one() -> None:
    first = acknowledged([STOP, DRAIN], {}, {DRAIN.id: ""}, 20.0)
    assert first == {STOP.id: Acknowledgement(10.5, 20.0), DRAIN.id: Acknowledgement(11.0, 20.0, True)}
    later = acknowledged([STOP], first, {STOP.id: "gone"}, 30.0)
    assert later == {STOP.id: Acknowledgement(10.5, 20.0, True, "gone")}
    given_anew = FleetOrder(OrderKind.STOP, "acme", given=29.0)
    assert acknowledged([given_anew], later, {}, 30.0) == {STOP.id: Acknowledgement(29.0, 30.0)}
    for each in later.values():
        assert read_acknowledgement(each.content) == each


@pytest.mark.parametrize(
    ("state", "carries", "standing"),
    [
        (UP, True, MemberStanding.CARRIES),
        (UP, False, MemberStanding.READY),
        (DRAINS, True, MemberStanding.DRAINS),
        (DOWN, False, MemberStanding.STOPPED),
        (tunnel_state(phase=Phase.BACKOFF, want=Want.UP), False, MemberStanding.DOWN),
    ],
)
def test_what_a_tunnel_is_to_the_fleet(state: TunnelState, carries: bool, standing: MemberStanding) -> None:
    assert standing_of(tunnel("acme"), state, carries) is standing


def test_who_waits_for_the_lock_of_another_member_is_not_down() -> None:
    backoff = tunnel_state(phase=Phase.BACKOFF, want=Want.UP)
    tunnels = {"acme": (tunnel("acme"), UP), "globex": (tunnel("globex"), backoff)}
    locks = {"acme": LockView("a", held=True), "globex": LockView("g", holder="vpn2")}
    assert member_status("1", Snapshot(tunnels, 100.0, locks=locks), {"acme"}, drained=False).tunnels == (
        MemberTunnel("acme", MemberStanding.CARRIES, True),
        MemberTunnel("globex", MemberStanding.WAITS),
    )


def test_a_status_is_read_as_it_was_written() -> None:
    status = MemberStatus("0.1.0", True, (MemberTunnel("acme", MemberStanding.CARRIES, True),))
    assert read_status(status.content) == status
    later = json.loads(status.content) | {"format": 2, "more": 1}
    later["tunnels"][0]["standing"] = "glides"
    assert read_status(json.dumps(later)).tunnels[0].standing is MemberStanding.DOWN


@given(values | st.builds(lambda each: json.dumps({"tunnels": [each]}), anything))
def test_a_status_is_read_or_refused(content: str) -> None:
    for read in (read_status, read_status_document, read_acknowledgement):
        with contextlib.suppress(ValueError):
            read(content)


def test_fifty_members_with_two_hundred_tunnels_fit() -> None:
    status = MemberStatus(
        "0.1.0", False, tuple(MemberTunnel(f"t{i}", MemberStanding.READY) for i in range(200))
    )
    assert len(status.content) < 20_000
    statuses, unknown = read_statuses({f"vpn{number:02}": status.content for number in range(60)})
    assert (len(statuses), unknown) == (50, {})


def test_the_view_names_who_is_silent_and_who_has_not_acknowledged() -> None:
    statuses, unknown = read_statuses(
        {
            "vpn1": MemberStatus(
                "0.1.0", False, (MemberTunnel("acme", MemberStanding.CARRIES, True),)
            ).content,
            "vpn2": MemberStatus("0.1.0", True, (MemberTunnel("acme", MemberStanding.DRAINS),)).content,
            "vpn4": "nonsense",
            "../x": "{}",
        }
    )
    answers = read_acknowledgements(
        {
            "stop.acme/vpn1": Acknowledgement(10.5, 10.6, True).content,
            "stop.acme/vpn2": Acknowledgement(9.0, 9.1, True).content,  # of an earlier order
            "stop.acme/vpn3": "nonsense",
            "halt.acme/vpn1": "{}",
        }
    )
    sight = FleetSight(statuses, (STOP,), answers, {"vpn3": 1_790_000_000.0}, unknown, source="engine")
    document = fleet_document("emea", "vpn1", ("vpn1", "vpn2", "vpn3"), sight)
    found: dict[str, Any] = {each["name"]: each for each in document["members"]}
    assert {name: each["up"] for name, each in found.items()} == {
        "vpn1": True,
        "vpn2": True,
        "vpn3": False,
        "vpn4": False,
    }
    assert found["vpn2"]["drained"]
    assert found["vpn3"]["silent_since"] == "2026-09-21T14:13:20Z"
    assert "not understood" in found["vpn4"]["problem"]
    assert document["tunnels"] == [
        {
            "name": "acme",
            "members": {
                "vpn1": {"standing": "carries", "locked": True},
                "vpn2": {"standing": "drains", "locked": False},
            },
        }
    ]
    (order,) = document["orders"]
    assert [each["member"] for each in order["acknowledged"]] == ["vpn1"]
    assert order["missing"] == ["vpn2", "vpn3", "vpn4"]


def test_a_member_is_silent_since_it_was_missed_first() -> None:
    first = seen({}, ["vpn1"], ["vpn1", "vpn2"], 10.0)
    assert first == {"vpn2": 10.0}
    assert seen(first, [], ["vpn1", "vpn2"], 20.0) == {"vpn1": 20.0, "vpn2": 10.0}
    assert seen(first, ["vpn1", "vpn2"], [], 20.0) == {}


# --- people


def test_an_order_about_a_person_is_about_wherever_the_person_is() -> None:
    out = new_order("end-user", "alice", "bob", "", 1.0)
    assert (out.id, out.subject) == ("end-user.alice", "alice")
    assert demands([out, DENY], "vpn1").people == {"alice"}
    assert demands([out, DENY], "vpn1").denied == (ip_address("10.8.1.7"),)
    places = [ip_address("10.8.1.1"), ip_address("10.8.1.2"), ip_address("10.8.1.3")]
    present = {
        place: Holding(place.packed, person, "s", 1.0)
        for place, person in zip(places, ("alice", "bob", "alice"), strict=True)
    }
    assert addresses_of(present, {"alice"}) == {places[0], places[2]}
    assert finished([out], "vpn1", snapshot(), places[:1], present) == {}
    assert finished([out], "vpn1", snapshot(), places, present) == {out.id: ""}
    assert finished([out], "vpn1", snapshot(), (), {}) == {out.id: ""}
    assert finished([out], "vpn1", snapshot(), ()) == {out.id: "knows no people: hub is not configured"}


@pytest.mark.parametrize(
    "wrong", ["10.8.1.777", "10.8.1", "10.8.0.0/16", "", "alice/..", "a b", ".", "é", "::g::"]
)
def test_a_mistyped_address_is_nobody(wrong: str) -> None:
    with pytest.raises(ValueError):
        new_order("end-user", wrong, "bob", "", 1.0)
