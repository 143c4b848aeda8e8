"""Messages as a customer's server sends them, and tunnels to ask behind."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from supervisor.core.names.values import MappedNetwork, NamesOfTunnel
from supervisor.names.answers import Filtered, SentQuery, filtered
from supervisor.names.wire import NameQuery, query, read_question, response, wire_name
from supervisor.names.zones import Directory, Zone

ACME = NamesOfTunnel(
    ("acme.internal",),
    (ip_address("10.0.0.53"),),
    (
        MappedNetwork(ip_network("10.0.0.0/16"), ip_network("100.64.0.0/16")),
        MappedNetwork(ip_network("fd00:77::/64"), ip_network("fd00:64::/64")),
    ),
    reverse=True,
    mark=173001,
    device="t-acme",
)


def zone(about: NamesOfTunnel = ACME) -> Zone:
    """It, as the tunnel `acme-dc`."""
    return Directory({"acme-dc": about}).zones["acme-dc"]


def asked_for(name: str, kind: str = "A") -> SentQuery:
    """A query for this name."""
    number = dns.rdatatype.from_text(kind)
    return SentQuery(query(4711, wire_name(name), number), wire_name(name), number)


def answer_to(
    asked: SentQuery,
    *answer: str,
    authority: tuple[str, ...] = (),
    additional: tuple[str, ...] = (),
    rcode: int = 0,
) -> bytes:
    """The message of a server with these records, each a line as in a zone file; AD is set."""
    message = dns.message.make_response(dns.message.from_wire(asked.message))
    message.flags |= dns.flags.AD
    message.set_rcode(dns.rcode.Rcode(rcode))
    for section, lines in ((message.answer, answer), (message.authority, authority)):
        section += [_rrset(line) for line in lines]
    message.additional += [_rrset(line) for line in additional]
    return message.to_wire()


def _rrset(line: str) -> dns.rrset.RRset:
    name, ttl, kind, data = line.split(None, 3)
    return dns.rrset.from_text(name, int(ttl), "IN", kind, data)


def through(asked: SentQuery, message: bytes, name: str = "", about: NamesOfTunnel = ACME) -> Filtered:
    """What the filter leaves; `name`: as staff have asked, if that is another name."""
    own = wire_name(name) if name else asked.name
    return filtered(message, asked, zone(about), own, wire_name(about.domains[0]))


def told(asked: SentQuery, message: bytes, name: str = "") -> list[str]:
    """The answer section that staff get, each record as a line."""
    found = shown(
        through(asked, message, name), name or ".".join(map(bytes.decode, _labels(asked.name))), asked
    )
    return [line for rrset in found.answer for line in rrset.to_text().splitlines()]


def _labels(name: bytes) -> list[bytes]:
    from supervisor.names.wire import labels

    return labels(name)


def shown(result: Filtered, name: str, asked: SentQuery) -> dns.message.Message:
    """The whole message that staff get, as dnspython reads it."""
    question = asked_by_staff(name, asked.kind)
    return dns.message.from_wire(response(question, result.answer, stream=True))


def asked_by_staff(name: str, kind: int = 1) -> NameQuery:
    """A question with EDNS."""
    made = dns.message.make_query(name, kind, use_edns=0, payload=1232)
    question = read_question(made.to_wire())
    assert isinstance(question, NameQuery)
    return question
