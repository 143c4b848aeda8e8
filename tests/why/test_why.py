"""What `why` concludes from given facts: verdicts, outcomes, and the step that is to blame."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.diagnosis.answer import Explanation, PacketOutcome, document
from supervisor.core.diagnosis.query import Evidence, RouteDecision, locate, parse_query, shifted
from supervisor.core.humanize import byte_size, duration
from supervisor.core.network.layout import MAIN_TABLE, Device, Element, HostFeatures, Layout, Route
from supervisor.core.network.plan import Lane
from supervisor.core.network.second_hop import OtherMember, handed_over, member_lanes
from supervisor.core.network.wanted import wanted
from tests.states import but
from tests.why.worlds import FIRST_LANE, asked, facts


def step(answer: Explanation, name: str) -> str:
    return " | ".join(each.text for each in answer.steps if each.name == name)


def problems(answer: Explanation) -> list[str]:
    return [each.name for each in answer.steps if each.status == "problem"]


@pytest.mark.parametrize(
    ("given", "outcome", "verdict"),
    [
        (facts("10.77.0.10"), "carried", "10.77.0.10 is carried by acme (openvpn), healthy, for 3 h 12 min"),
        (
            facts("fd00:77::10"),
            "carried",
            "fd00:77::10 is carried by acme (openvpn), healthy, for 3 h 12 min",
        ),
        (
            facts("10.77.0.10", acme="unproven"),
            "carried",
            "10.77.0.10 is carried by acme (openvpn), connected for 2 s, not proven by a probe yet",
        ),
        (
            facts("10.77.0.10", acme="backoff"),
            "down",
            "10.77.0.10 would be rejected: acme (openvpn) is down since 1970-01-01T05:31:15Z (2 min 5 s) "
            "at the endpoint "
            "because network: connection to 203.0.113.2 timed out; the next attempt follows in 7 s",
        ),
        (
            facts("10.77.0.10", acme="dropped"),
            "down",
            "10.77.0.10 would be held until the tunnel is back: acme (openvpn) is down since 1970-01-01T05:33:16Z (4 s) at "
            "the endpoint "
            "because network: connection to 203.0.113.2 timed out; the next attempt follows in 1 s",
        ),
        (
            facts("10.77.0.10", acme="alone"),
            "carried",
            "10.77.0.10 is carried by acme (openvpn), connected, and its destination is dead since "
            "1970-01-01T05:32:20Z (1 min 0 s) "
            "because destination: the tunnel works, but nothing answers; its session is kept",
        ),
        (
            facts("10.77.0.10", acme="starting"),
            "down",
            "10.77.0.10 would be rejected: acme (openvpn) is down since 1970-01-01T05:31:15Z (2 min 5 s) "
            "at the endpoint "
            "because network: connection to 203.0.113.2 timed out; it is connecting now",
        ),
        (
            facts("10.77.0.10", acme="failed"),
            "down",
            "10.77.0.10 would be rejected: acme (openvpn) is down since 1970-01-01T05:33:11Z (9 s) at the "
            "tunnel "
            "because auth: AUTH_FAILED; it needs attention",
        ),
        (
            facts("10.77.0.10", acme="stopped"),
            "down",
            "10.77.0.10 would be rejected: acme (openvpn) is stopped by an operator since "
            "1970-01-01T05:32:20Z (1 min 0 s)",
        ),
        (
            facts("100.64.3.4"),
            "carried",
            "100.64.3.4, which is 10.0.3.4 at the remote site, is carried by acme (openvpn), healthy, for 3 "
            "h 12 min",
        ),
        (
            facts("100.65.3.4"),
            "carried",
            "100.65.3.4, which is 10.0.3.4 at the remote site, is carried by beta (openvpn), healthy, for 3 "
            "h 12 min",
        ),
        (
            facts("10.0.3.4"),
            "nothing",
            "10.0.3.4 is an address at the remote site; "
            "staff reach it as 100.64.3.4 through acme, 100.65.3.4 through beta: ask for one of these",
        ),
        (facts("10.90.0.10"), "carried", "10.90.0.10 is carried by cloud (openvpn), healthy, for 3 h 12 min"),
        (
            facts("10.77.0.10", source="10.9.0.1"),
            "refused",
            "10.77.0.10 would be rejected: 10.9.0.1 is not in staff.networks (10.8.0.0/16)",
        ),
        (
            facts("8.8.8.8"),
            "nothing",
            "8.8.8.8 is carried by no tunnel; this host would send it via 198.51.100.1 dev uplink",
        ),
        (facts("10.50.0.1"), "carried", "10.50.0.1 is carried by main (openvpn), healthy, for 3 h 12 min"),
        (
            facts("10.77.0.10", acme="draining"),
            "refused",
            "10.77.0.10 would be rejected: acme (openvpn) is draining, and only active flows continue",
        ),
        (
            facts("10.50.0.1", main="draining"),
            "carried",
            "10.50.0.1 is carried by spare (openvpn), healthy, for 3 h 12 min",
        ),
        (
            facts("10.50.0.1", main="backoff"),
            "carried",
            "10.50.0.1 is carried by spare (openvpn), healthy, for 3 h 12 min",
        ),
    ],
)
def test_a_verdict_is_one_sentence(given: Evidence, outcome: str, verdict: str) -> None:
    answer = asked(given)
    assert (answer.outcome.value, answer.verdict) == (outcome, verdict)
    assert (problems(answer) == []) is (outcome == "carried" or given.query.address == ip_address("10.0.3.4"))


def test_every_step_of_a_packet_that_arrives() -> None:
    answer = asked(facts("100.64.3.4", source="10.8.1.7"))
    assert [(each.name, each.status.value, each.text) for each in answer.steps] == [
        ("source", "ok", "10.8.1.7 is staff: 10.8.0.0/16, segment engineers"),
        ("destination", "ok", "100.64.0.0/16 of acme covers 100.64.3.4"),
        (
            "mapping",
            "ok",
            "staff use 100.64.3.4, at the remote site it is 10.0.3.4 (100.64.0.0/16 stands for 10.0.0.0/16)",
        ),
        ("tunnel", "ok", "acme (openvpn) carries it: healthy since 1970-01-01T02:21:20Z (3 h 12 min)"),
        (
            "session",
            "ok",
            "session 5f0c, process 4242, address 10.78.0.2, gateway 203.0.113.2, "
            "connected since 1970-01-01T02:21:19Z (3 h 12 min)",
        ),
        ("probe", "ok", "the last one was answered in 12.3 ms, healthy for 3 h 12 min in this session"),
        ("lane", "ok", f"packet mark, connection mark and routing table {FIRST_LANE}"),
        ("rule", "ok", f"fwmark {FIRST_LANE} lookup {FIRST_LANE}"),
        ("table", "ok", step(answer, "table")),
        ("closed", "ok", step(answer, "closed")),
        ("nftables", "ok", step(answer, "nftables")),
        ("device", "ok", "t-acme is up, MTU 1400 bytes"),
        ("nat", "ok", "source NAT: the remote gateway sees 10.78.0.2"),
        ("route", "ok", f"the kernel sends it dev t-acme (table {FIRST_LANE})"),
        ("way back", "ok", "answers go via 10.60.0.1 dev vpc"),
        ("bytes", "ok", "t-acme: 4.2 MB received, 999 B sent"),
        (
            "refused",
            "ok",
            "packets of all tunnels, since facilitator's table was created: forward 3, input 0",
        ),
        ("failure", "ok", "1970-01-01T05:32:20Z (1 min 0 s ago): network: again"),
        (
            "failure",
            "ok",
            "1970-01-01T05:31:15Z (2 min 5 s ago): network: connection to 203.0.113.2 timed out",
        ),
    ]
    assert f"0.0.0.0/0 dev t-acme table {FIRST_LANE}" in step(answer, "table")
    assert step(answer, "closed").startswith("100.64.0.0/16 ")


@pytest.mark.parametrize(
    ("answering", "members", "status", "words"),
    [
        ({"vpn2"}, ("vpn2",), "ok", "do not know go to member vpn2 (172.31.2.2, dev m-vpn2, table "),
        (
            set(),
            ("vpn2",),
            "warning",
            "are reset: member vpn2 (172.31.2.2) does not answer over the handover path (table ",
        ),
        ({"vpn2", "vpn3"}, ("vpn2", "vpn3"), "ok", "are reset: it is not known which member carried "),
    ],
)
def test_where_connections_go_that_another_member_knows(
    answering: set[str], members: tuple[str, ...], status: str, words: str
) -> None:
    given = facts("10.77.0.10")
    others = tuple(OtherMember(name, ip_address(f"172.31.{name[-1]}.2"), port=4790) for name in members)
    lanes = member_lanes(others, frozenset(answering))
    plan = replace(given.plan, members=lanes, handed_over=handed_over(lanes, given.plan.carries, {}))
    answer = asked(replace(given, plan=plan), layout=wanted(plan, given.kernel.host))
    assert words.removeprefix("do not know ") in step(answer, "second hop")
    assert [each.status for each in answer.steps if each.name == "second hop"] == [status]
    assert answer.outcome is PacketOutcome.CARRIED


def test_staff_whose_packets_come_in_by_another_interface_are_named() -> None:
    asked_about = facts("100.64.0.10")
    seen = replace(asked_about.kernel, refused={**asked_about.kernel.refused, "prerouting": 7})
    words = step(asked(replace(asked_about, kernel=seen)), "way in")
    assert words.startswith(
        "7 packets of staff came in by another interface than the one that leads back to their sender"
    )


def test_failover_names_all_candidates_in_order() -> None:
    answer = asked(facts("10.50.0.1", carriers={"10.50.0.0/16": "spare"}, main="back"))
    assert answer.tunnel == "spare"
    assert step(answer, "tunnel") == (
        "main (openvpn, priority 100) stands by: healthy since 1970-01-01T05:33:00Z (20 s); it takes over "
        "in 40 s if it stays up | "
        "spare (openvpn, priority 200) carries it: healthy since 1970-01-01T02:21:20Z (3 h 12 min)"
    )


@pytest.mark.parametrize(
    ("source", "port", "outcome", "words"),
    [
        (
            None,
            None,
            "carried",
            "beta lets in engineers, support to tcp/443; --from ADDRESS asks for one sender",
        ),
        ("10.8.1.7", 22, "carried", "beta lets in engineers"),
        ("10.8.2.7", 443, "carried", "beta lets in support to tcp/443"),
        ("10.8.2.7", None, "carried", "beta lets in support to tcp/443"),
        (
            "10.8.2.7",
            22,
            "refused",
            "beta does not let 10.8.2.7 to port 22, only engineers, support to tcp/443",
        ),
        ("10.8.3.7", 443, "refused", "beta does not let 10.8.3.7 in, only engineers, support to tcp/443"),
    ],
)
def test_who_may_enter(source: str | None, port: int | None, outcome: str, words: str) -> None:
    answer = asked(facts("100.65.0.1", source, port))
    assert (answer.outcome.value, step(answer, "allow")) == (outcome, words)


def test_who_was_turned_away_is_counted() -> None:
    counts = {("beta", ""): 2, ("beta", "support"): 5, ("acme", "support"): 9}
    expected = "packets that beta did not let in, by segment: in no segment 2, support 5"
    assert step(asked(facts("100.65.0.1"), turned_away=counts), "not allowed") == expected
    assert step(asked(facts("10.50.0.1"), turned_away=counts), "not allowed") == ""


def without(layout: Layout, **fields: Any) -> dict[str, Any]:
    return {"layout": replace(layout, **fields)}


_LAYOUT = facts("10.77.0.10").kernel.layout
assert _LAYOUT is not None
_SHUT = frozenset(
    r for r in _LAYOUT.routes if r.table != MAIN_TABLE or r.network != ip_network("10.77.0.0/24")
)
_OPENING = frozenset(r for r in _LAYOUT.routes if not (r.table == FIRST_LANE and r.kind == "unicast"))


@pytest.mark.parametrize(
    ("found", "blamed", "words"),
    [
        (
            without(_LAYOUT, rules=frozenset()),
            "rule",
            f"missing in the kernel: rule fwmark {FIRST_LANE} lookup {FIRST_LANE}",
        ),
        (
            without(_LAYOUT, routes=_OPENING),
            "table",
            f"missing in the kernel: route 0.0.0.0/0 dev t-acme table {FIRST_LANE} metric 100",
        ),
        (without(_LAYOUT, routes=_SHUT), "closed", "without it a packet could leave unencrypted"),
        (
            without(_LAYOUT, table=False, elements=frozenset()),
            "nftables",
            "table inet facilitator is missing or was changed",
        ),
        (
            without(_LAYOUT, elements=_LAYOUT.elements - {Element("up", (FIRST_LANE,))}),
            "nftables",
            f"element up {FIRST_LANE}",
        ),
        (
            {"host": HostFeatures({"t-acme": Device(7, 1400, False, True)})},
            "device",
            "t-acme is down, MTU 1400 bytes",
        ),
        ({"forwarding": False}, "forwarding", "IPv4 forwarding is switched off"),
        (
            {"onward": RouteDecision("uplink", "198.51.100.1", 254)},
            "route",
            "the kernel sends it via 198.51.100.1 dev uplink (table 254)",
        ),
        (
            {"onward": RouteDecision(error="nowhere: unreachable")},
            "route",
            "the kernel sends it nowhere: unreachable",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isalpha() else None,
)
def test_a_kernel_that_does_not_follow_is_blamed(found: dict[str, Any], blamed: str, words: str) -> None:
    answer = asked(facts("10.77.0.10"), **found)
    assert answer.outcome == "blocked"
    assert blamed in problems(answer)
    assert words in step(answer, blamed)
    assert (
        f"10.77.0.10 should be carried by acme (openvpn), but would not arrive: {problems(answer)[0]}: "
        in answer.verdict
    )


def test_among_many_lanes_the_packets_own_rule_is_looked_for_where_it_stands() -> None:
    given = facts("10.77.0.10")
    others = tuple(Lane(f"other-{i}", FIRST_LANE + 100 + i, f"t-other{i}", False) for i in range(50))
    plan = replace(given.plan, lanes=(*given.plan.lanes, *others))
    layout = wanted(plan, given.kernel.host)
    answer = asked(replace(given, plan=plan), layout=layout)
    assert (answer.outcome, problems(answer)) == ("carried", [])
    assert f"fwmark {FIRST_LANE} lookup {FIRST_LANE} priority " in step(answer, "rule")
    slower = replace(layout, rules=frozenset(rule for rule in layout.rules if rule.kind == "lookup"))
    assert asked(replace(given, plan=plan), layout=slower).outcome == "carried"
    none = replace(layout, rules=frozenset(rule for rule in layout.rules if rule.mark != FIRST_LANE))
    assert problems(asked(replace(given, plan=plan), layout=none)) == ["rule"]


def test_a_route_too_many_in_the_lane_is_shown() -> None:
    assert _LAYOUT is not None
    extra = Route(ip_network("10.77.0.0/25"), FIRST_LANE, 5, "prohibit")
    answer = asked(facts("10.77.0.10"), **without(_LAYOUT, routes=_LAYOUT.routes | {extra}))
    assert f"there is also: route 10.77.0.0/25 prohibit table {FIRST_LANE} metric 5" in step(answer, "table")


def test_how_much_fits_through_the_tunnel_is_told_where_it_is_known() -> None:
    given = facts("10.77.0.10")
    acme, state = given.snapshot.tunnels["acme"]
    measured = but(state, session=replace(state.session, path_mtu=1280))
    snapshot = replace(given.snapshot, tunnels={**given.snapshot.tunnels, "acme": (acme, measured)})
    expected = "t-acme is up, MTU 1400 bytes; packets of up to 1280 bytes get through the tunnel"
    assert step(asked(replace(given, snapshot=snapshot)), "device") == expected


def test_what_follows_from_a_tunnel_that_is_down_is_not_blamed() -> None:
    answer = asked(facts("10.77.0.10", acme="backoff"))
    assert problems(answer) == ["tunnel"]
    assert step(answer, "device") == "t-acme does not exist now"
    assert step(answer, "session") == "no client runs"


def test_a_proxy_that_does_not_listen_is_blamed() -> None:
    assert step(asked(facts("10.90.0.10")), "proxy").startswith(
        "TCP is redirected to port 17300 of this host, where the client listens"
    )
    assert problems(asked(facts("10.90.0.10"), listening=False)) == ["proxy"]


def test_an_answer_that_finds_no_way_back() -> None:
    nowhere = RouteDecision(error="nowhere: there is no route")
    assert problems(asked(facts("10.77.0.10", source="10.8.0.2"), back=nowhere)) == ["way back"]
    assert asked(facts("10.77.0.10"), back=nowhere).outcome == "carried"


def test_an_unreadable_kernel_is_said_and_the_rest_answered() -> None:
    answer = asked(facts("10.77.0.10"), layout=None, problem="no answer")
    assert (answer.outcome, step(answer, "kernel")) == ("carried", "cannot be read: no answer")


def test_nobody_may_send_where_staff_has_no_network_of_that_version() -> None:
    given = facts("fd00:77::10")
    answer = asked(replace(given, plan=replace(given.plan, staff=given.plan.staff[:1])))
    assert (answer.outcome, problems(answer)[0]) == ("refused", "source")


def test_the_nearest_destinations_are_named() -> None:
    assert step(asked(facts("10.77.1.5")), "destination") == (
        "no destination covers it; the nearest: 10.77.0.0/24 (acme), 10.90.0.0/16 (cloud), 10.50.0.0/16 "
        "(main)"
    )


def test_the_document_gives_both_addresses() -> None:
    given = facts("100.65.3.4", "10.8.1.7", 443)
    found = document(given, asked(given))
    assert {name: value for name, value in found.items() if name not in ("steps", "verdict")} == {
        "address": "100.65.3.4",
        "from": "10.8.1.7",
        "port": 443,
        "outcome": "carried",
        "tunnel": "beta",
        "destination": "100.65.0.0/16",
        "staff_address": "100.65.3.4",
        "real_address": "10.0.3.4",
    }
    assert found["steps"][0] == {
        "name": "source",
        "state": "ok",
        "text": "10.8.1.7 is staff: 10.8.0.0/16, segment engineers",
    }


def test_a_tunnel_that_was_just_removed_carries_nothing() -> None:
    given = facts("10.77.0.10")
    rest = {name: pair for name, pair in given.snapshot.tunnels.items() if name != "acme"}
    assert asked(replace(given, snapshot=replace(given.snapshot, tunnels=rest))).outcome == "nothing"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("portal.acme.example",), "'portal.acme.example' is not an IP address; names are not resolved"),
        (("10.77.0.0/24",), "'10.77.0.0/24' is not an IP address; write one address of that network"),
        (("fe80::1%eth0",), "'fe80::1%eth0' is an address on one link only; no tunnel can carry it"),
        (("10.77.0.10", "fd00::1"), "fd00::1 cannot send to 10.77.0.10: one is IPv4, the other IPv6"),
        (("10.77.0.10", None, "https"), "'https' is not a port; write a number from 1 to 65535"),
        (("10.77.0.10", None, "65536"), "'65536' is not a port; write a number from 1 to 65535"),
        (("10.77.0.10", None, "1" * 5000), "is not a port; write a number from 1 to 65535"),
    ],
)
def test_a_bad_question_is_refused_in_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        parse_query(*arguments)
    assert str(refused.value).endswith(sentence)


@given(st.text(), st.none() | st.text(), st.none() | st.text())
def test_any_text_is_a_question_or_a_sentence(address: str, source: str | None, port: str | None) -> None:
    with contextlib.suppress(ValueError):
        assert parse_query(address, source, port).address.version in (4, 6)


@given(st.integers(0, 2**16 - 1))
def test_a_mapping_keeps_the_place_in_the_network(offset: int) -> None:
    old, new = ip_network("10.0.0.0/16"), ip_network("100.64.0.0/16")
    moved = shifted(old[offset], old, new)
    assert moved in new
    assert shifted(moved, new, old) == old[offset]


@given(st.integers(0, 2**32 - 1))
def test_only_a_covering_destination_is_found(number: int) -> None:
    given, address = facts("10.77.0.10"), ip_address(number)
    found = locate(given.snapshot, given.plan, address)
    covering = [carry.network for carry in given.plan.carries if address in carry.network]
    assert (found is None) is (covering == [])


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0 s"), (59.9, "59 s"), (61, "1 min 1 s"), (11_520, "3 h 12 min"), (90_000, "1 d 1 h")],
)
def test_a_span_of_time_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (4_200_000, "4.2 MB"), (10**13, "10.0 TB")],
)
def test_bytes_in_words(count: int, words: str) -> None:
    assert byte_size(count) == words


def test_without_any_assigned_address_packets_carry_one_of_this_host() -> None:
    answer = asked(facts("10.77.0.10", acme="unassigned"), addresses=())
    assert (answer.outcome, problems(answer)) == ("carried", [])
    assert "it sees one of this host's other addresses" in step(answer, "nat")


@pytest.mark.parametrize(("address", "acme"), [("fd00:77::10", "ipv4-only"), ("10.77.0.10", "unaddressed")])
def test_without_an_address_of_its_version_no_packet_enters(address: str, acme: str) -> None:
    answer = asked(facts(address, acme=acme), addresses=())
    assert (answer.outcome, problems(answer)) == ("blocked", ["nat"])
    assert "the remote gateway has assigned no IPv" in step(answer, "nat")


def test_an_address_on_the_interface_counts_where_the_client_sets_it() -> None:
    assert "sees 10.78.0.9" in step(
        asked(facts("10.77.0.10", acme="unaddressed"), addresses=("10.78.0.9",)), "nat"
    )


@pytest.mark.parametrize("source", [None, "10.8.0.99"])
@pytest.mark.parametrize(
    ("back", "words"),
    [
        (RouteDecision("t-beta", None, 254), "answers would go into tunnel beta (dev t-beta)"),
        (RouteDecision("t-acme", None, 254), "answers would go into tunnel acme (dev t-acme)"),
        (RouteDecision("lo", None, 255), "answers would stay on this host (dev lo)"),
    ],
)
def test_answers_must_leave_towards_the_staff(source: str | None, back: RouteDecision, words: str) -> None:
    answer = asked(facts("10.77.0.10", source=source), back=back)
    assert (answer.outcome, problems(answer)) == ("blocked", ["way back"])
    assert words in step(answer, "way back")


def test_an_address_that_the_remote_gateway_did_not_agree_to_carry_is_named() -> None:
    def said(address: str, **states: str) -> list[tuple[str, str, str]]:
        steps = asked(facts(address, **states)).steps
        return [(step.name, step.status.value, step.text) for step in steps if "agreed to carry" in step.text]

    text = "it agreed to carry only 10.77.0.0/28; to do: have 10.77.0.77 added there"
    assert said("10.77.0.77", acme="narrow") == [("remote gateway", "problem", text)]
    assert said("10.77.0.10", acme="narrow") == [], "this one it carries"
    assert said("10.77.0.77") == [], "a kind that agrees on nothing"
