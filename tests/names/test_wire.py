"""Questions and responses as bytes, compared with dnspython; and the cache."""

from __future__ import annotations

import dns.edns
import dns.message
import dns.rcode
import dns.rdatatype
from hypothesis import given
from hypothesis import strategies as st

from supervisor.names.asking import new_query
from supervisor.names.cache import Cache
from supervisor.names.wire import (
    ErrorCode,
    ExtendedError,
    Malformed,
    NameAnswer,
    NameQuery,
    Rcode,
    Record,
    read_question,
    refusal,
    render,
    response,
    wire_name,
)

LABEL = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,20}[A-Za-z0-9])?", fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=6).map(".".join)


@given(NAME, st.sampled_from(["A", "AAAA", "PTR", "HTTPS"]), st.booleans(), st.integers(0, 65535))
def test_a_question_is_read_as_dnspython_reads_it(name: str, kind: str, edns: bool, size: int) -> None:
    made = dns.message.make_query(
        name, kind, use_edns=0 if edns else -1, payload=size if edns else None, want_dnssec=edns
    )
    question = read_question(made.to_wire())
    assert isinstance(question, NameQuery)
    assert question.name == wire_name(name.lower())
    assert question.kind == dns.rdatatype.from_text(kind)
    assert (question.edns, question.dnssec) == (edns, edns)
    assert question.size == (min(max(size, 512), 1232) if edns else 512)


@given(st.binary(max_size=120))
def test_any_bytes_are_a_question_or_none(data: bytes) -> None:
    question = read_question(data)
    if isinstance(question, NameQuery):
        sent = response(question, NameAnswer(Rcode.REFUSED))
        assert dns.message.from_wire(sent).rcode() == dns.rcode.REFUSED
    elif isinstance(question, Malformed):
        assert dns.message.from_wire(refusal(question)).rcode() == question.rcode


def question(**options: object) -> NameQuery:
    found = read_question(dns.message.make_query("Db1.acme.internal", "A", **options).to_wire())  # type: ignore[arg-type]
    assert isinstance(found, NameQuery)
    return found


def test_ttls_grow_smaller_and_the_case_of_the_question_stays() -> None:
    name = wire_name("db1.acme.internal")
    answer = render(name, Rcode.NOERROR, [Record(name, 1, 300, b"\x64\x40\0\5")])
    for age, ttl in ((0, 300), (7, 293), (7, 293), (400, 0)):
        message = dns.message.from_wire(response(question(), answer, age))
        assert message.answer[0].to_text() == f"Db1.acme.internal. {ttl} IN A 100.64.0.5"


def test_why_there_is_no_answer_is_said() -> None:
    answer = NameAnswer(
        Rcode.SERVFAIL, error=ExtendedError(ErrorCode.NO_REACHABLE_AUTHORITY, "acme-dc is down")
    )
    message = dns.message.from_wire(response(question(use_edns=0), answer))
    assert message.rcode() == dns.rcode.SERVFAIL
    (option,) = message.options
    assert isinstance(option, dns.edns.EDEOption)
    assert (option.code, option.text) == (22, "acme-dc is down")
    assert dns.message.from_wire(response(question(), answer)).rcode() == dns.rcode.SERVFAIL


def test_what_does_not_fit_is_truncated_but_not_over_tcp() -> None:
    name = wire_name("db1.acme.internal")
    answer = render(name, Rcode.NOERROR, [Record(name, 1, 300, bytes([100, 64, 0, n])) for n in range(90)])
    sent = response(question(use_edns=0, payload=4096), answer)
    message = dns.message.from_wire(sent)
    assert bool(message.flags & dns.flags.TC)
    assert message.answer == []
    assert len(sent) < 100
    whole = dns.message.from_wire(response(question(), answer, stream=True))
    assert len(whole.answer[0]) == 90


def test_each_query_has_another_case_and_identifier() -> None:
    queries = [new_query(wire_name("database-one.acme.internal"), 1) for _ in range(50)]
    assert len({each.name for each in queries}) > 40
    assert len({each.message[:2] for each in queries}) > 40
    assert {each.name.lower() for each in queries} == {wire_name("database-one.acme.internal")}


def test_the_cache_is_bounded_and_honours_lifetimes() -> None:
    cache = Cache(answers=100, size=1 << 20)
    for number in range(1000):
        cache.put(("acme", b"%d" % number, 1), NameAnswer(Rcode.NOERROR, body=bytes(50), lifetime=10), 0.0)
    assert len(cache) == 100
    assert cache.get(("acme", b"0", 1), 1.0) is None
    assert cache.get(("acme", b"999", 1), 9.9) is not None
    assert cache.get(("acme", b"999", 1), 10.0) is None
    cache.put(("acme", b"x", 1), NameAnswer(Rcode.NOERROR, lifetime=0), 0.0)
    assert cache.get(("acme", b"x", 1), 0.0) is None
    cache.forget("acme")
    assert (len(cache), cache.bytes) == (0, 0)


def test_the_cache_is_bounded_in_bytes() -> None:
    cache = Cache(size=100_000)
    for number in range(100):
        cache.put(
            ("acme", b"%d" % number, 1), NameAnswer(Rcode.NOERROR, body=bytes(10_000), lifetime=10), 0.0
        )
    assert cache.bytes <= 100_000
    assert len(cache) == 4
