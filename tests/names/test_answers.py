"""What is let through of a customer's answers, and what never is."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import dns.flags
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.names.answers import Unusable, belongs, belongs_but_case
from supervisor.names.wire import MAX_NAME, Rcode, name_end, wire_name
from tests.names.messages import ACME, answer_to, asked_for, shown, through, told

DB = "db1.acme.internal."


def test_an_address_is_the_one_that_staff_use() -> None:
    asked = asked_for("db1.acme.internal")
    assert told(asked, answer_to(asked, f"{DB} 300 A 10.0.0.5")) == ["db1.acme.internal. 300 IN A 100.64.0.5"]
    asked = asked_for("db1.acme.internal", "AAAA")
    line = told(asked, answer_to(asked, f"{DB} 60 AAAA fd00:77::5"))
    assert line == ["db1.acme.internal. 60 IN AAAA fd00:64::5"]


@pytest.mark.parametrize("foreign", ["10.8.0.2", "127.0.0.1", "100.64.0.5", "192.0.2.1", "169.254.169.254"])
def test_an_address_outside_of_the_destinations_is_dropped(foreign: str) -> None:
    asked = asked_for("db1.acme.internal")
    message = answer_to(asked, f"{DB} 300 A {foreign}", f"{DB} 300 A 10.0.0.5")
    assert told(asked, message) == ["db1.acme.internal. 300 IN A 100.64.0.5"]
    result = through(asked, answer_to(asked, f"{DB} 300 A {foreign}"))
    assert (result.answer.counts[0], result.dropped) == (0, 1)
    assert result.answer.error is not None
    assert "outside of its domains" in result.answer.error.text


def test_an_alias_inside_is_told_and_one_that_leaves_is_cut() -> None:
    asked = asked_for("www.acme.internal")
    inside = answer_to(asked, "www.acme.internal. 60 CNAME db1.acme.internal.", f"{DB} 300 A 10.0.0.5")
    assert told(asked, inside) == [
        "www.acme.internal. 60 IN CNAME db1.acme.internal.",
        "db1.acme.internal. 300 IN A 100.64.0.5",
    ]
    leaves = answer_to(
        asked, "www.acme.internal. 60 CNAME www.bank.example.", "www.bank.example. 300 A 10.0.0.5"
    )
    assert told(asked, leaves) == ["www.acme.internal. 300 IN A 100.64.0.5"]


def test_records_of_other_names_are_not_looked_at() -> None:
    asked = asked_for("db1.acme.internal")
    message = answer_to(
        asked,
        f"{DB} 300 A 10.0.0.5",
        "www.bank.example. 300 A 10.0.0.6",
        additional=("www.bank.example. 300 A 10.0.0.6",),
        authority=("bank.example. 300 NS db1.acme.internal.",),
    )
    found = shown(through(asked, message), "db1.acme.internal", asked)
    assert [rrset.name.to_text() for rrset in (*found.answer, *found.authority, *found.additional)] == [DB]
    assert not found.flags & dns.flags.AD, "what is rewritten cannot be authentic"


def test_addresses_that_come_along_are_those_that_staff_use() -> None:
    asked = asked_for("_ldap._tcp.acme.internal", "SRV")
    message = answer_to(
        asked,
        "_ldap._tcp.acme.internal. 60 SRV 0 5 389 dc1.acme.internal.",
        additional=(
            "dc1.acme.internal. 60 A 10.0.0.9",
            "dc1.acme.internal. 60 A 8.8.8.8",
            "other.acme.internal. 60 A 10.0.0.8",
        ),
    )
    found = shown(through(asked, message), "_ldap._tcp.acme.internal", asked)
    assert [rrset.to_text() for rrset in found.additional] == ["dc1.acme.internal. 60 IN A 100.64.0.9"]


def test_hints_at_addresses_are_taken_out() -> None:
    asked = asked_for("www.acme.internal", "HTTPS")
    message = answer_to(
        asked, 'www.acme.internal. 60 HTTPS 1 . alpn="h2" ipv4hint="8.8.8.8" ipv6hint="2001:db8::1"'
    )
    assert told(asked, message) == ['www.acme.internal. 60 IN HTTPS 1 . alpn="h2"']


def test_the_name_of_an_address() -> None:
    asked = asked_for("5.0.0.10.in-addr.arpa", "PTR")
    presented = "5.0.64.100.in-addr.arpa"
    message = answer_to(asked, "5.0.0.10.in-addr.arpa. 60 PTR db1.acme.internal.")
    assert told(asked, message, presented) == ["5.0.64.100.in-addr.arpa. 60 IN PTR db1.acme.internal."]
    delegated = answer_to(
        asked,
        "5.0.0.10.in-addr.arpa. 60 CNAME 5.0-25.0.0.10.in-addr.arpa.",
        "5.0-25.0.0.10.in-addr.arpa. 60 PTR db1.acme.internal.",
    )
    assert told(asked, delegated, presented) == ["5.0.64.100.in-addr.arpa. 60 IN PTR db1.acme.internal."]
    lies = answer_to(asked, "5.0.0.10.in-addr.arpa. 60 PTR www.bank.example.")
    assert told(asked, lies, presented) == []


def test_nothing_is_remembered_as_its_soa_says_but_not_for_long() -> None:
    asked = asked_for("none.acme.internal")
    soa = "example. 86400 SOA ns.example. root.example. 1 2 3 4 86400"
    result = through(asked, answer_to(asked, authority=(soa,), rcode=3))
    assert (result.answer.rcode, result.answer.lifetime) == (Rcode.NXDOMAIN, 300)
    found = shown(result, "none.acme.internal", asked)
    assert [rrset.name.to_text() for rrset in found.authority] == ["acme.internal."]


def test_a_loop_of_aliases_ends() -> None:
    asked = asked_for("a.acme.internal")
    loop = answer_to(
        asked, "a.acme.internal. 60 CNAME b.acme.internal.", "b.acme.internal. 60 CNAME a.acme.internal."
    )
    with pytest.raises(Unusable, match="chain"):
        through(asked, loop)


def test_what_does_not_belong_to_the_query() -> None:
    asked = asked_for("db1.acme.internal")
    right = answer_to(asked, f"{DB} 300 A 10.0.0.5")
    assert belongs(right, asked)
    forged = [
        b"\0\0" + right[2:],
        asked.message,  # no response
        right.replace(b"db1", b"db2"),
        right[:20],
        b"",
    ]
    assert not any(belongs(message, asked) or belongs_but_case(message, asked) for message in forged)
    upper = right.replace(b"\3db1", b"\3DB1")
    assert (belongs(upper, asked), belongs_but_case(upper, asked)) == (False, True)


NAMES = st.sampled_from(
    [
        "db1.acme.internal.",
        "a.acme.internal.",
        "acme.internal.",
        "www.bank.example.",
        "5.0.0.10.in-addr.arpa.",
        ".",
    ]
)
ADDRESSES = st.one_of(st.ip_addresses(v=4), st.sampled_from(["10.0.0.5", "10.0.255.255"]).map(ip_address))
DATA = st.one_of(
    st.tuples(st.just("A"), ADDRESSES.map(str)),
    st.tuples(st.just("AAAA"), st.ip_addresses(v=6).map(str)),
    st.tuples(st.just("CNAME"), NAMES),
    st.tuples(st.just("PTR"), NAMES),
    st.tuples(st.just("SRV"), NAMES.map(lambda name: f"0 5 389 {name}")),
    st.tuples(st.just("MX"), NAMES.map(lambda name: f"10 {name}")),
    st.tuples(st.just("HTTPS"), st.just('1 . ipv4hint="8.8.8.8"')),
)
LINES = st.lists(
    st.tuples(NAMES, st.integers(0, 2**31 - 1), DATA).map(lambda r: f"{r[0]} {r[1]} {r[2][0]} {r[2][1]}"),
    max_size=12,
)


@given(LINES, LINES, st.sampled_from(["A", "AAAA", "SRV", "MX", "HTTPS", "CNAME", "PTR"]), st.randoms())
def test_no_answer_of_a_hostile_server_gets_an_address_through(
    answer: list[str], additional: list[str], kind: str, random: object
) -> None:
    asked = asked_for("db1.acme.internal", kind)
    message = answer_to(asked, *answer, additional=tuple(additional))
    try:
        result = through(asked, message)
    except Unusable:
        return
    check_safe(shown(result, "db1.acme.internal", asked))


def check_safe(message: object) -> None:
    """Nothing but names and addresses of the tunnel."""
    import dns.message

    assert isinstance(message, dns.message.Message)
    for rrset in (*message.answer, *message.additional):
        assert rrset.name.to_text().lower().endswith("acme.internal."), rrset
        assert rrset.ttl <= 3600
        for rdata in rrset:
            if rrset.rdtype in (1, 28):
                address = ip_address(rdata.address)
                assert any(address in each.presented for each in ACME.networks), rdata
            assert "hint" not in rdata.to_text()


@given(st.binary(max_size=300), st.integers(0, 3), st.integers(0, 5))
def test_bytes_that_are_no_message_raise_nothing_else(rest: bytes, rcode: int, records: int) -> None:
    asked = asked_for("db1.acme.internal")
    head = struct.pack("!HHHHHH", 4711, 0x8180 | rcode, 1, records, records, records)
    try:
        result = through(asked, head + asked.question + rest)
    except Unusable:
        return
    check_safe(shown(result, "db1.acme.internal", asked))


@given(st.data())
def test_a_message_with_flipped_bytes_gets_nothing_through(data: st.DataObject) -> None:
    asked = asked_for("db1.acme.internal")
    message = bytearray(
        answer_to(
            asked,
            f"{DB} 60 CNAME a.acme.internal.",
            "a.acme.internal. 300 A 10.0.0.5",
            additional=("a.acme.internal. 300 A 10.0.0.5",),
        )
    )
    for place in data.draw(st.lists(st.integers(12 + len(asked.question), len(message) - 1), max_size=8)):
        message[place] = data.draw(st.integers(0, 255))
    try:
        result = through(asked, bytes(message))
    except Unusable:
        return
    check_safe(shown(result, "db1.acme.internal", asked))


@given(st.binary(max_size=300))
def test_a_name_ends_inside_of_the_message(data: bytes) -> None:
    end = name_end(data, 0)
    assert end is None or 0 < end <= min(len(data), MAX_NAME)


def test_names_as_bytes() -> None:
    assert wire_name("db1.acme") == b"\3db1\4acme\0"
