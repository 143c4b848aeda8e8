"""Access by person, as elements of the table."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from pydantic import ValidationError

from supervisor.config.validation import validated
from supervisor.core.identity.book import Holding
from supervisor.core.network.access import AccessPolicy, PersonRule, gate
from supervisor.core.network.admission import PersonRules
from supervisor.core.network.intervals import Interval
from supervisor.core.network.layout import Element
from tests.settings import configured
from tunnels.settings import Allowance, Ports, Tunnel

LANE, NOW = 173001, 1_800_000_000.0
ALICE, BOB = ip_address("10.8.0.1"), ip_address("fd00:8::2")
PRESENT = {
    ALICE: Holding(ALICE.packed, "alice", "s1", 1.0, groups=("engineers", "oncall")),
    BOB: Holding(BOB.packed, "bob", "s2", 1.0, groups=("engineers",)),
}


def single(address: object) -> Interval:
    found = ip_address(str(address))
    return Interval(found.version, int(found), int(found))


def admitted(*rules: PersonRule) -> dict[Element, float | None]:
    made = PersonRules([AccessPolicy("acme", LANE, (), rules)])
    found = [made.elements(address, holding, NOW) for address, holding in PRESENT.items()]
    return {element: until for each in found for element, until in each.items()}


def test_groups_and_people_are_let_in() -> None:
    whole = {Element("people4", (LANE, single(ALICE))): None, Element("people6", (LANE, single(BOB))): None}
    assert admitted(PersonRule("engineers", "", None, None)) == whole
    assert list(admitted(PersonRule("", "bob", None, None))) == [Element("people6", (LANE, single(BOB)))]
    assert list(admitted(PersonRule("oncall", "", None, None))) == [Element("people4", (LANE, single(ALICE)))]
    assert admitted(PersonRule("", "engineers", None, None), PersonRule("alice", "", None, None)) == {}


def test_the_latest_end_counts_and_what_is_over_lets_nobody_in() -> None:
    rules = PersonRule("engineers", "", None, NOW + 10), PersonRule("", "alice", None, NOW + 20)
    assert set(admitted(*rules).values()) == {NOW + 10, NOW + 20}
    assert admitted(PersonRule("", "alice", None, NOW)) == {}
    assert set(admitted(*rules, PersonRule("oncall", "", None, None)).values()) == {None, NOW + 10}


def test_each_port_is_an_element_with_the_latest_end() -> None:
    rules = (
        PersonRule("oncall", "", (Ports("tcp", 80, 82), Ports("udp", 53, 53)), NOW + 10),
        PersonRule("", "alice", (Ports("tcp", 82, 83),), None),
    )
    found = {each.key[2:]: until for each, until in admitted(*rules).items()}
    soon = NOW + 10
    assert found == {
        ("tcp", 80): soon,
        ("tcp", 81): soon,
        ("tcp", 82): None,
        ("tcp", 83): None,
        ("udp", 53): soon,
    }


def test_the_next_end_is_known() -> None:
    rules = (
        PersonRule("a", "", None, NOW),
        PersonRule("b", "", None, NOW + 20),
        PersonRule("c", "", None, NOW + 9),
    )
    made = PersonRules([AccessPolicy("acme", LANE, (), rules)])
    assert made.next_end(NOW) == NOW + 9
    assert made.next_end(NOW + 30) == float("inf")


def test_the_last_day_is_a_whole_day_in_utc() -> None:
    allow = ("office", {"group": "oncall", "ports": ["tcp/443"]}, {"person": "alice", "until": "2027-01-31"})
    tunnel = configured(Tunnel, name="acme", kind="openvpn", destinations=("10.77.0.0/24",), allow=allow)
    policy = gate(tunnel, LANE)
    assert policy is not None
    assert [each.segment for each in policy.entries] == ["office"]
    assert policy.people == (
        PersonRule("oncall", "", (Ports("tcp", 443, 443),), None),
        PersonRule("", "alice", None, 1_801_440_000.0),  # 2027-02-01T00:00:00Z
    )
    assert [str(each) for each in tunnel.allow or ()] == [
        "office", "group oncall to tcp/443", "person alice until 2027-01-31",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"group": "a", "person": "b"},
        {"segment": "a", "until": "2027-01-31"},
        {"group": "a", "until": "31.1.2027"},
        {"group": "a", "ports": ["tcp/1-65"]},
    ],
)
def test_an_entry_names_one_of_the_three(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        validated(Allowance, wrong)
