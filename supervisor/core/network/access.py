"""Access control: which staff may use a tunnel. What `staff.segments` and a tunnel's `allow` mean, as
disjoint ranges of source addresses.

    AccessPolicy (from the configuration) -> refusals(...) -> elements of the table (`core.network.layout`),
    and whose counter is whose (`kernel.counters`)

Segments may overlap: a source that one rule allows is allowed. A refused packet is counted for the smallest
network around its source.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from tunnels.networks import IPAddress, IPNetwork
from tunnels.settings import Allowance, Ports, Tunnel, parse_ports


@dataclass(frozen=True, slots=True)
class Segment:
    """A named group of staff networks (`staff.segments`)."""

    name: str
    networks: tuple[IPNetwork, ...]


@dataclass(frozen=True, slots=True)
class AccessRule:
    """A segment that is allowed to use the tunnel."""

    segment: str
    ports: tuple[Ports, ...] | None  # only these; None: all ports and protocols


@dataclass(frozen=True, slots=True)
class PersonRule:
    """A group or a person that is allowed to use the tunnel; one of both is ""."""

    group: str
    person: str
    ports: tuple[Ports, ...] | None  # only these; None: all ports and protocols
    until: float | None  # Unix time from which on the rule lets nobody in; None: for ever


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """The allow list of one tunnel: what no entry allows is refused."""

    tunnel: str
    lane: int
    entries: tuple[AccessRule, ...]
    people: tuple[PersonRule, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Source addresses from `first` to `last` (as numbers) that are refused, except to some ports."""

    version: int
    first: int
    last: int
    segment: str  # "": in no segment
    ports: tuple[Ports, ...] = ()  # disjoint, in order


@dataclass(frozen=True, slots=True)
class _Area:
    """A range of source addresses that are all in the same segments."""

    version: int
    first: int
    last: int
    segment: str  # the one with the smallest network here
    segments: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Span:
    """A network of a segment, or of staff in general (segment "")."""

    first: int
    after: int
    prefix: int
    segment: str


def gate(tunnel: Tunnel, lane: int) -> AccessPolicy | None:
    """The access policy of a tunnel; None: all of `staff.networks` is allowed."""
    if tunnel.allow is None:
        return None
    segments = tuple(_entry(each) for each in tunnel.allow if not each.by_person)
    people = tuple(person_rule(each) for each in tunnel.allow if each.by_person)
    return AccessPolicy(tunnel.name, lane, segments, people)


def _entry(allowance: Allowance) -> AccessRule:
    return AccessRule(allowance.segment, _ports(allowance))


def person_rule(allowance: Allowance) -> PersonRule:
    """The rule about a group or a person. Its last day ends at midnight, in UTC."""
    until = None
    if allowance.until is not None:
        day = datetime.strptime(allowance.until, "%Y-%m-%d").replace(tzinfo=UTC)
        until = (day + timedelta(days=1)).timestamp()
    return PersonRule(allowance.group, allowance.person, _ports(allowance), until)


def _ports(allowance: Allowance) -> tuple[Ports, ...] | None:
    return None if allowance.ports is None else tuple(map(parse_ports, allowance.ports))


def open_to(policy: AccessPolicy, segments: Sequence[Segment], address: IPAddress) -> bool:
    """Does a rule by network let this source in to all ports."""
    names = {entry.segment for entry in policy.entries if entry.ports is None}
    return any(address in network for each in segments if each.name in names for network in each.networks)


def refusals(
    staff: Sequence[IPNetwork], segments: Sequence[Segment], gates: Iterable[AccessPolicy]
) -> Iterator[tuple[AccessPolicy, Refusal]]:
    """What each policy refuses, as disjoint ranges of sources: all of staff except those allowed
    to all ports.
    """
    areas = [area for version in (4, 6) for area in _areas(version, staff, segments)]
    for each in gates:
        yield from ((each, refusal) for refusal in _joined(_refused(each, areas)))


def _refused(each: AccessPolicy, areas: Iterable[_Area]) -> Iterator[Refusal]:
    for area in areas:
        entries = [entry for entry in each.entries if entry.segment in area.segments]
        ports = [entry.ports for entry in entries if entry.ports is not None]
        if len(ports) == len(entries):
            yield Refusal(area.version, area.first, area.last, area.segment, _merged(itertools.chain(*ports)))


def _joined(refusals: Iterable[Refusal]) -> Iterator[Refusal]:
    """Merges adjacent ranges that are refused in the same way."""
    before: Refusal | None = None
    for refusal in refusals:
        if (
            before is not None
            and replace(before, last=refusal.last) == replace(refusal, first=before.first)
            and (refusal.first == before.last + 1)
        ):
            before = replace(before, last=refusal.last)
            continue
        if before is not None:
            yield before
        before = refusal
    if before is not None:
        yield before


def _merged(ports: Iterable[Ports]) -> tuple[Ports, ...]:
    """The same ports as disjoint ranges."""
    found: list[Ports] = []
    for each in sorted(ports):
        if found and found[-1].protocol == each.protocol and each.first <= found[-1].last + 1:
            found[-1] = found[-1]._replace(last=max(found[-1].last, each.last))
        else:
            found.append(each)
    return tuple(found)


def _areas(version: int, staff: Sequence[IPNetwork], segments: Sequence[Segment]) -> Iterator[_Area]:
    """Splits the address space where any network begins or ends."""
    opening: defaultdict[int, list[_Span]] = defaultdict(list)
    closing: defaultdict[int, list[_Span]] = defaultdict(list)
    for span in _spans(version, (Segment("", tuple(staff)), *segments)):
        opening[span.first].append(span)
        closing[span.after].append(span)
    inside: set[_Span] = set()
    for edge, after in itertools.pairwise(sorted({*opening, *closing})):
        inside.difference_update(closing[edge])
        inside.update(opening[edge])
        named = [span for span in inside if span.segment]
        if len(named) < len(inside):
            smallest = max(named, key=lambda span: (span.prefix, span.segment), default=None)
            yield _Area(
                version,
                edge,
                after - 1,
                smallest.segment if smallest else "",
                frozenset(span.segment for span in named),
            )


def _spans(version: int, segments: Iterable[Segment]) -> Iterator[_Span]:
    for segment in segments:
        for network in segment.networks:
            if network.version == version:
                yield _Span(
                    int(network.network_address),
                    int(network.broadcast_address) + 1,
                    network.prefixlen,
                    segment.name,
                )
