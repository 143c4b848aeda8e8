"""Who is answered, and what is said at once, without any server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_address, ip_network

import dns.edns
import dns.message
import dns.rcode
import pytest

from supervisor.core.names.values import AskingRules, NameServiceState, NamesOfTunnel
from supervisor.names.resolver import MAX_RELAYED, MAX_WAITING, NameResolver
from supervisor.names.zones import Directory, address_of, reverse_name
from tests.names.messages import ACME

STAFF = AskingRules((ip_network("10.8.0.0/16"),), denied=(ip_address("10.8.0.66"),))
DOWN = "acme-dc is down since 12:03 UTC: the remote gateway does not answer"


def answered(about: NamesOfTunnel, name: str, source: str, kind: str = "A") -> dns.message.Message | None:
    """What is said at once."""
    resolver, sent = NameResolver(lambda: 0.0), list[bytes]()
    resolver.set(NameServiceState(STAFF, {"acme-dc": about}))
    resolver.take(dns.message.make_query(name, kind, use_edns=0).to_wire(), source, sent.append)
    return dns.message.from_wire(sent[0]) if sent else None


@pytest.mark.parametrize(
    ("about", "name", "source", "rcode", "text"),
    [
        (replace(ACME, down=DOWN), "db1.acme.internal", "10.8.0.2", "SERVFAIL", DOWN),
        (replace(ACME, down=DOWN), "5.0.64.100.in-addr.arpa", "10.8.0.2", "SERVFAIL", DOWN),
        (ACME, "www.example.com", "10.8.0.2", "REFUSED", "is behind no tunnel"),
        (ACME, "internal", "10.8.0.2", "REFUSED", "is behind no tunnel"),
        (ACME, "notacme.internal", "10.8.0.2", "REFUSED", "is behind no tunnel"),
        (ACME, "5.0.0.10.in-addr.arpa", "10.8.0.2", "REFUSED", "is behind no tunnel"),
        (
            replace(ACME, allowed=(ip_network("10.8.1.0/24"),)),
            "db1.acme.internal",
            "10.8.0.2",
            "REFUSED",
            "you may not use this tunnel",
        ),
    ],
)
def test_what_is_said_at_once(about: NamesOfTunnel, name: str, source: str, rcode: str, text: str) -> None:
    message = answered(about, name, source)
    assert message is not None
    assert dns.rcode.to_text(message.rcode()) == rcode
    (option,) = message.options
    assert isinstance(option, dns.edns.EDEOption)
    assert text in (option.text or "")


@pytest.mark.parametrize("source", ["192.0.2.1", "10.9.0.1", "10.8.0.66", "fd00::1"])
def test_strangers_and_those_who_are_kept_out_get_no_answer(source: str) -> None:
    assert answered(ACME, "db1.acme.internal", source) is None


async def test_questions_that_wait_for_a_customer_take_no_room_from_names_that_are_nobodys() -> None:
    resolver, sent = NameResolver(lambda: 0.0), list[bytes]()
    relayed = replace(STAFF, upstream=(ip_address("192.0.2.53"),))
    resolver.set(NameServiceState(relayed, {"acme-dc": ACME}))

    def ask(name: str, times: int) -> None:
        for _ in range(times):
            resolver.take(dns.message.make_query(name, "A", use_edns=0).to_wire(), "10.8.0.2", sent.append)

    ask("db1.acme.internal", MAX_WAITING)
    ask("www.example.com", MAX_RELAYED)
    assert sent == []  # all of them are asked
    ask("db1.acme.internal", 1)
    ask("www.example.com", 1)
    assert [dns.message.from_wire(each).rcode() for each in sent] == [dns.rcode.SERVFAIL] * 2
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


def test_types_that_could_hold_addresses_are_not_asked_for() -> None:
    message = answered(ACME, "db1.acme.internal", "10.8.0.2", "APL")
    assert message is not None
    assert (message.rcode(), message.answer) == (dns.rcode.NOERROR, [])
    message = answered(ACME, "db1.acme.internal", "10.8.0.2", "ANY")
    assert message is not None
    assert message.rcode() == dns.rcode.REFUSED


def test_of_two_tunnels_to_one_customer_the_first_that_is_up_is_asked() -> None:
    first, second = replace(ACME, priority=10), replace(ACME, priority=20)
    name = b"\3db1\4acme\10internal\0"
    for one, other, asked in ((first, second, "a"), (replace(first, down=DOWN), second, "b")):
        found = Directory({"b": other, "a": one}).of_name(name)
        assert found is not None
        assert found.tunnel == asked


@pytest.mark.parametrize("text", ["100.64.0.5", "fd00:64::5"])
def test_addresses_and_the_names_of_their_names(text: str) -> None:
    address = ip_address(text)
    assert address_of(reverse_name(address)) == address
    zone = Directory({"acme-dc": ACME}).of_address(address)
    assert zone is not None
    real = zone.real(address)
    assert real is not None
    assert zone.presented(real) == address


@pytest.mark.parametrize(
    "name", [b"\4arpa\0", b"\0015\7in-addr\4arpa\0", b"\1x\0010\0010\0011\7in-addr\4arpa\0"]
)
def test_what_is_no_whole_address(name: bytes) -> None:
    assert address_of(name) is None
