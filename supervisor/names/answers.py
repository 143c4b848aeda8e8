"""The answer of a customer's server -> what staff may be told. Every such server is hostile: the message is
bounded before it is read, only records that answer the question are looked at, and only addresses inside the
tunnel's own destinations are let through, as staff use them.

Pure. dnspython reads the message.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from dns.rdtypes.svcbbase import ParamKey

from supervisor.names.wire import (
    HEADER,
    QUESTION,
    RESPONSE,
    TRUNCATED,
    ErrorCode,
    ExtendedError,
    NameAnswer,
    Rcode,
    Record,
    render,
)
from supervisor.names.zones import Zone, as_address

MAX_BYTES = 16_384  # of an answer over TCP; over UDP it is `wire.UDP_BYTES`
MAX_RECORDS = 256
MAX_CHAIN = 10  # aliases that are followed
MAX_KEPT = 100  # records that staff are told
MAX_TTL, MAX_NEGATIVE_TTL, UNSAID_TTL = 3600, 300, 30  # seconds

A, AAAA, CNAME, PTR, SOA = 1, 28, 5, 12, 6
_ADDRESSES = (A, AAAA)
_SERVICES = frozenset({64, 65})  # SVCB, HTTPS: they hint at addresses
# NS, MX, SRV, NAPTR: they name hosts whose addresses may come along
_POINTING = {2: "target", 15: "exchange", 33: "target", 35: "replacement"}
# What else holds no address: SOA, PTR, HINFO, TXT, LOC, SSHFP, TLSA, SPF, URI, CAA
_HARMLESS = frozenset({SOA, PTR, 13, 16, 29, 44, 52, 99, 256, 257})
ASKABLE = frozenset({*_ADDRESSES, CNAME, *_SERVICES, *_POINTING, *_HARMLESS})
_UNREADABLE = (dns.exception.DNSException, ValueError, IndexError, struct.error)


@dataclass(frozen=True, slots=True)
class SentQuery:
    """The query as it was sent."""

    message: bytes
    name: bytes  # wire form, with the letters' case that was chosen for it
    kind: int

    @property
    def question(self) -> bytes:
        """Its question section."""
        return self.message[QUESTION : QUESTION + len(self.name) + 4]


def belongs(message: bytes, asked: SentQuery) -> bool:
    """The message answers this query: identifier, question and the case of its letters are the same."""
    return _head(message, asked) and message[QUESTION : QUESTION + len(asked.question)] == asked.question


def belongs_but_case(message: bytes, asked: SentQuery) -> bool:
    """The same, of a server that does not repeat the case of letters: it is asked again over TCP."""
    end = QUESTION + len(asked.name)
    return _head(message, asked) and message[QUESTION:end].lower() == asked.name.lower()


def _head(message: bytes, asked: SentQuery) -> bool:
    if len(message) < QUESTION + len(asked.question):
        return False
    _, flags, questions, *_ = HEADER.unpack_from(message)
    return message[:2] == asked.message[:2] and bool(flags & RESPONSE) and questions == 1


def is_truncated(message: bytes) -> bool:
    """The rest has to be asked for over TCP."""
    return bool(HEADER.unpack_from(message)[1] & TRUNCATED)


def rcode_of(message: bytes) -> int:
    """The response code in the header."""
    return int(HEADER.unpack_from(message)[1]) & 0xF


class Unusable(Exception):
    """The answer cannot be used; the text says why."""


@dataclass(slots=True)
class Filtered:
    """What is left of an answer."""

    answer: NameAnswer
    dropped: int  # records that were not let through
    records: list[Record]  # the answer section
    alias: bytes | None = (
        None  # a name inside of the domains at which the answer ends without what is asked for
    )

    def begun_by(self, aliases: list[Record], name: bytes) -> Filtered:
        """The whole answer about `name`, when this one is about the name at which these aliases end."""
        records = [*aliases, *self.records]
        answer = render(name, self.answer.rcode, records)
        answer.error = self.answer.error
        answer.lifetime = min(self.answer.lifetime, *(record.ttl for record in aliases))
        return Filtered(answer, self.dropped, records, self.alias)


def filtered(message: bytes, asked: SentQuery, zone: Zone, name: bytes, domain: bytes) -> Filtered:
    """What staff are told. `name`: the name that staff ask for, which of a reverse name is another one than
    the server was asked for; `domain`: that of the tunnel in which it lies. Unusable.
    """
    if len(message) > MAX_BYTES or sum(HEADER.unpack_from(message)[3:]) > MAX_RECORDS:
        raise Unusable("its answer is too large")
    try:
        # names that are compressed against the question have its letters
        parsed = dns.message.from_wire(
            message[:QUESTION] + asked.name.lower() + message[QUESTION + len(asked.name) :]
        )
        return _Filter(zone, name, domain, asked).run(parsed)
    except _UNREADABLE as error:
        raise Unusable(f"its answer cannot be read: {type(error).__name__}") from None


@dataclass(slots=True)
class _Filter:
    zone: Zone
    name: bytes
    domain: bytes
    asked: SentQuery
    dropped: int = 0
    ttl: int = MAX_TTL
    left: bool = False  # an alias has led out of the domains
    additional: list[Record] = field(default_factory=list)

    def run(self, message: dns.message.Message) -> Filtered:
        """The filtered answer."""
        rcode = Rcode(message.rcode())
        if rcode not in (Rcode.NOERROR, Rcode.NXDOMAIN):
            raise Unusable(f"it answers {rcode.name}")
        records = self._answer(message)
        negative = not any(record.kind == self.asked.kind for record in records)
        authority = self._authority(message) if negative else []
        kept = render(self.name, rcode, records, authority, self.additional)
        kept.lifetime = self._negative_ttl(authority) if negative else self.ttl
        if self.dropped and negative:
            text = f"{self.zone.tunnel}: {self.dropped} records outside of its domains and destinations"
            kept.error, kept.lifetime = ExtendedError(ErrorCode.FILTERED, text), UNSAID_TTL
            kept.rcode = Rcode.NOERROR
        ends_at_alias = negative and rcode is Rcode.NOERROR and records and not self.left
        alias = records[-1].data if ends_at_alias and self.asked.kind != CNAME else None
        return Filtered(kept, self.dropped, records, alias)

    def _answer(self, message: dns.message.Message) -> list[Record]:
        """The aliases inside of the domains, then the records at their end. An alias that leaves the domains
        is left out, and what it leads to stands at the last name inside.
        """
        found = {(each.name, each.rdtype): each for each in message.answer if each.rdclass == 1}
        here = dns.name.from_wire(self.asked.name.lower(), 0)[0]
        owner, records = self.name, list[Record]()
        for _ in range(MAX_CHAIN):
            alias = found.get((here, dns.rdatatype.CNAME))
            if alias is None or self.asked.kind == CNAME or (here, self.asked.kind) in found:
                break
            ttl, here = self._bounded(alias.ttl), alias[0].target
            target = here.to_wire() or b""
            self.left = self.left or not self.zone.holds(target)
            if self.left:
                self.dropped += not self._reverse
            else:
                records.append(Record(owner, CNAME, ttl, target))
                owner = target
        else:
            raise Unusable(f"its answer is a chain of more than {MAX_CHAIN} aliases")
        wanted = [each for (where, kind), each in found.items() if where == here and kind == self.asked.kind]
        records += [record for each in wanted for record in self._kept(each, owner)]
        targets = {name for each in wanted for name in _targets(each)}
        self._note_additional(message.additional, targets)
        return records[:MAX_KEPT]

    @property
    def _reverse(self) -> bool:
        return self.name.lower() != self.asked.name.lower() or not self.zone.holds(self.name)

    def _kept(self, rrset: dns.rrset.RRset, owner: bytes) -> Iterator[Record]:
        ttl = self._bounded(rrset.ttl)
        for rdata in rrset:
            data = self._data(int(rrset.rdtype), rdata)
            if data is None:
                self.dropped += 1
            else:
                yield Record(owner, int(rrset.rdtype), ttl, data)

    def _data(self, kind: int, rdata: dns.rdata.Rdata) -> bytes | None:
        """The data of a record as staff get it; None: they do not."""
        data = rdata.to_wire() or b""
        if kind in _ADDRESSES:
            presented = self.zone.presented(as_address(data))
            return None if presented is None else presented.packed
        if kind == PTR and self._reverse and not self.zone.holds(data):
            return None
        if kind == CNAME and not self.zone.holds(data):
            return None
        if kind in _SERVICES:
            return _without_hints(rdata)
        return data if kind in ASKABLE else None

    def _note_additional(self, rrsets: Iterable[dns.rrset.RRset], targets: set[dns.name.Name]) -> None:
        for rrset in rrsets:
            owner = rrset.name.to_wire() or b""
            if rrset.name in targets and int(rrset.rdtype) in _ADDRESSES and self.zone.holds(owner):
                self.additional += self._kept(rrset, owner)
        del self.additional[MAX_KEPT:]

    def _authority(self, message: dns.message.Message) -> list[Record]:
        """The SOA by which resolvers know how long to remember that there is nothing (RFC 2308)."""
        for rrset in message.authority:
            if rrset.rdtype == dns.rdatatype.SOA:
                ttl = min(rrset.ttl, rrset[0].minimum, MAX_NEGATIVE_TTL)
                return [Record(self.domain, SOA, ttl, rrset[0].to_wire() or b"")]
        return []

    @staticmethod
    def _negative_ttl(authority: list[Record]) -> int:
        return authority[0].ttl if authority else UNSAID_TTL

    def _bounded(self, ttl: int) -> int:
        ttl = min(max(0, ttl), MAX_TTL)
        self.ttl = min(self.ttl, ttl)
        return ttl


def _targets(rrset: dns.rrset.RRset) -> Iterator[dns.name.Name]:
    if int(rrset.rdtype) in _POINTING:
        for rdata in rrset:
            yield getattr(rdata, _POINTING[int(rrset.rdtype)])


def _without_hints(rdata: dns.rdata.Rdata) -> bytes:
    """SVCB and HTTPS records without addresses (RFC 9460): staff ask for those by themselves."""
    hints = (ParamKey.IPV4HINT, ParamKey.IPV6HINT)
    params = {key: value for key, value in rdata.params.items() if key not in hints}  # type: ignore[attr-defined]  # of these types
    return rdata.replace(params=params).to_wire() or b""
