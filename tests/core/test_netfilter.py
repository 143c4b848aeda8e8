"""Packets walked through rules: what is said about many packets at once must hold for each of them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.netfilter.values import (
    Between,
    Bits,
    Compare,
    Consequence,
    Constant,
    ElementSet,
    Expression,
    FilterChain,
    FilterRule,
    Firewall,
    LoadExpression,
    Masked,
    Member,
    Opaque,
    SetInterval,
    Swapped,
    SymbolicPacket,
    Truth,
)
from supervisor.core.netfilter.walk import walk

MARK = {"mark": Bits.exactly(b"\0\0\0\0")}


def packet(target: Bits) -> SymbolicPacket:
    header = Bits(b"\x45" + bytes(15) + target.value, b"\xff" + bytes(15) + target.known)
    return SymbolicPacket(4, MARK, header, Bits.unknown(20), "staff", "destination")


def chain(
    *rules: tuple[Expression, ...], drops: bool = False, name: str = "forward", hook: str = "forward"
) -> FilterChain:
    return FilterChain(
        "ip", "t", name, tuple(FilterRule(n + 1, rule) for n, rule in enumerate(rules)), hook, drops=drops
    )


def said(firewall: Firewall, about: SymbolicPacket) -> list[tuple[str, Truth, bool]]:
    return [
        (stop.how, stop.truth, stop.exceptions) for stop in walk(firewall, firewall.chains[0], about).stops
    ]


DADDR = LoadExpression(0, "network", 4, 16)
ACCEPT, DROP, RETURN = Consequence("accept"), Consequence("drop"), Consequence("return")
SITE = packet(Bits.of(ip_network("10.77.0.0/24"), "destination"))


def to(address: str) -> tuple[Expression, ...]:
    return DADDR, Compare(0, "==", ip_network(address).network_address.packed)


@pytest.mark.parametrize(
    ("rules", "drops", "expected"),
    [
        ((), True, [("policy drop", Truth.YES, False)]),
        (((ACCEPT,),), True, []),
        (
            ((Opaque(), ACCEPT),),
            True,
            [("policy drop", Truth.YES, True)],
        ),  # unless a rule of its own accepts it
        (((*to("10.77.0.5"), DROP),), False, [("drop", Truth.MAYBE, False)]),
        (((*to("10.99.0.5"), DROP),), False, []),
        (
            ((DADDR, Masked(0, 0, b"\xff\xff\xff\0", bytes(4)), Compare(0, "==", b"\x0a\x4d\0\0"), DROP),),
            False,
            [("drop", Truth.YES, False)],
        ),
        (
            ((LoadExpression(0, "network", 2, 16), Compare(0, "==", b"\x0a\x4d"), Consequence("reject")),),
            False,
            [("reject", Truth.YES, False)],
        ),
        (
            ((DADDR, Between(0, b"\x0a\0\0\0", b"\x0a\xff\xff\xff"), DROP),),
            False,
            [("drop", Truth.YES, False)],
        ),
        (
            ((DADDR, Between(0, b"\x0a\x4d\0\x80", b"\x0a\x4d\0\xff", outside=True), DROP),),
            False,
            [("drop", Truth.MAYBE, False)],
        ),
        (((LoadExpression(0, "mark", 4), Compare(0, "!=", bytes(4)), DROP),), False, []),
        (
            ((LoadExpression(0, "ct mark", 4), Compare(0, "!=", bytes(4)), DROP),),
            False,
            [],
        ),  # there is no flow yet
        (((LoadExpression(0, "protocol of the future", 4), DROP),), False, [("drop", Truth.YES, False)]),
        (
            ((LoadExpression(0, "protocol of the future", 4), Compare(0, "==", bytes(4)), DROP),),
            False,
            [("drop", Truth.MAYBE, False)],
        ),
        (
            ((Opaque(), Compare(0, "==", b"\1\0\0\0"), DROP),),
            False,
            [("drop", Truth.MAYBE, False)],
        ),  # of which registers nothing is known
        (
            ((Constant(0, b"\1\2"), Swapped(0, 0, 2, 2), Compare(0, "==", b"\2\1"), DROP),),
            False,
            [("drop", Truth.YES, False)],
        ),
        (((RETURN,), (DROP,)), True, [("policy drop", Truth.YES, False)]),
    ],
)
def test_a_chain(
    rules: tuple[tuple[Expression, ...], ...], drops: bool, expected: list[tuple[str, Truth, bool]]
) -> None:
    assert said(Firewall((chain(*rules, drops=drops),)), SITE) == expected


@pytest.mark.parametrize(
    ("how", "inner", "expected"),
    [
        ("jump", (DROP,), [("drop", Truth.YES, False)]),
        ("jump", (RETURN,), [("reject", Truth.YES, False)]),
        ("jump", (ACCEPT,), []),
        ("goto", (RETURN,), [("policy drop", Truth.YES, False)]),
        ("jump", (Opaque(), ACCEPT), [("reject", Truth.YES, True)]),
    ],
)
def test_chains_lead_to_each_other(
    how: str, inner: tuple[Expression, ...], expected: list[tuple[str, Truth, bool]]
) -> None:
    outer = chain((Consequence(how, "inner"),), (Consequence("reject"),), drops=True)
    firewall = Firewall((outer, chain(inner, name="inner", hook="")))
    assert said(firewall, SITE) == expected
    assert firewall.reach(outer) == {"forward", "inner"}


def test_chains_that_lead_to_each_other_in_a_circle_end() -> None:
    loop = Firewall((chain((Consequence("jump", "forward"),), (Consequence("jump", "gone"),)),))
    assert said(loop, SITE) == []


@pytest.mark.parametrize(
    ("elements", "outside", "expected"),
    [
        ([("10.0.0.0", "10.255.255.255")], False, Truth.YES),
        ([("10.77.0.9", "10.77.0.9")], False, Truth.MAYBE),
        ([("10.77.0.9", "10.77.0.9")], True, Truth.MAYBE),
        ([("192.0.2.1", "192.0.2.1")], False, None),
        ([], False, None),
        (None, False, Truth.MAYBE),
    ],
)
def test_sets(elements: list[tuple[str, str]] | None, outside: bool, expected: Truth | None) -> None:
    made = (
        None
        if elements is None
        else tuple(
            SetInterval(*(ip_network(end).network_address.packed for end in each)) for each in elements
        )
    )
    firewall = Firewall(
        (chain((DADDR, Member(0, "s", outside), DROP)),), {("ip", "t", "s"): ElementSet(made)}
    )
    assert [truth for _, truth, _ in said(firewall, SITE)] == ([] if expected is None else [expected])


def test_a_map_of_verdicts_and_concatenations() -> None:
    elements = (
        SetInterval(b"\x0a\x4d\0\0\x06\0\0\0", b"\x0a\x4d\0\xff\x06\0\0\0", Consequence("goto", "closed")),
    )
    tables = {("ip", "t", "m"): ElementSet(elements, (4, 1))}
    rule = (DADDR, LoadExpression(4, "l4proto", 1), Member(0, "m"))
    firewall = Firewall((chain(rule), chain((DROP,), name="closed", hook="")), tables)
    tcp = replace(SITE, fields={**MARK, "l4proto": Bits.exactly(b"\x06")})
    assert said(firewall, tcp) == [("drop", Truth.YES, False)]
    assert said(firewall, replace(SITE, fields={**MARK, "l4proto": Bits.exactly(b"\x11")})) == []
    assert said(firewall, SITE) == [("drop", Truth.MAYBE, False)]
    assert firewall.reach(firewall.chains[0]) == {"forward", "closed"}


def test_a_rule_for_us_counts_for_all_of_our_packets_and_one_that_drops_is_meant() -> None:
    accepts = FilterRule(1, (Opaque(), ACCEPT), "x facilitator")
    for rule, drops in ((accepts, True), (FilterRule(1, (*to("10.77.0.5"), DROP), "facilitator"), False)):
        assert (
            said(Firewall((FilterChain("ip", "t", "forward", (rule,), "forward", drops=drops),)), SITE) == []
        )


def test_it_is_told_what_it_depends_on() -> None:
    found = walk(
        firewall := Firewall((chain((*to("10.77.0.5"), ACCEPT), drops=True),)), firewall.chains[0], SITE
    )
    assert found.open == {"destination"}
    firewall = Firewall(
        (chain((LoadExpression(0, "network", 4, 12), Compare(0, "==", b"\x0a\x08\0\2"), DROP)),)
    )
    assert [stop.open for stop in walk(firewall, firewall.chains[0], SITE).stops] == [{"staff"}]


# --- any rules
# ----------------------------------------------------------------------------------------------------------

BYTES4 = st.lists(st.sampled_from([0, 1, 10, 77, 128, 255]), min_size=4, max_size=4).map(bytes)
MATCHES = st.one_of(
    st.builds(
        lambda op, value: (DADDR, Compare(0, op, value)),
        st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
        BYTES4,
    ),
    st.builds(
        lambda ends, out: (DADDR, Between(0, *sorted(ends), out)), st.tuples(BYTES4, BYTES4), st.booleans()
    ),
    st.builds(
        lambda mask, value: (DADDR, Masked(0, 0, mask, bytes(4)), Compare(0, "==", value)), BYTES4, BYTES4
    ),
    st.builds(lambda out: (DADDR, Member(0, "s", out)), st.booleans()),
    st.builds(lambda value: (DADDR, Swapped(0, 0, 4, 4), Compare(0, "<", value)), BYTES4),
    st.just(()),
)
ENDS = st.sampled_from(
    [ACCEPT, DROP, RETURN, Consequence("reject"), Consequence("jump", "other"), Consequence("goto", "other")]
)
RULES = st.lists(st.builds(lambda match, end: (*match, end), MATCHES, ENDS), max_size=5)
INNER = st.lists(
    st.builds(lambda match, end: (*match, end), MATCHES, st.sampled_from([ACCEPT, DROP, RETURN])), max_size=3
)
SETS = st.lists(st.tuples(BYTES4, BYTES4), max_size=3)


@given(RULES, INNER, SETS, st.booleans(), BYTES4, BYTES4)
def test_what_holds_for_many_packets_holds_for_each(
    rules: list[tuple[Expression, ...]],
    inner: list[tuple[Expression, ...]],
    spans: list[tuple[bytes, bytes]],
    drops: bool,
    address: bytes,
    known: bytes,
) -> None:
    elements = ElementSet(tuple(SetInterval(*sorted(span)) for span in spans))
    firewall = Firewall(
        (chain(*rules, drops=drops), chain(*inner, name="other", hook="")), {("ip", "t", "s"): elements}
    )
    many = said(firewall, packet(Bits(address, known)))
    one = said(firewall, packet(Bits.exactly(address)))
    assert all(truth is Truth.YES and not exceptions for _, truth, exceptions in one), (
        "one packet has one fate"
    )
    assert len(one) <= 1
    if not many:
        assert one == []
    if any(truth is Truth.YES and not exceptions for _, truth, exceptions in many) and len(many) == 1:
        assert [how for how, _, _ in one] == [many[0][0]]
    if one:
        assert one[0][0] in [how for how, _, _ in many]
