"""Who of staff may enter a tunnel: what `staff.segments` and a tunnel's `allow` mean, as disjoint ranges
of source addresses.

    Gate (from the configuration) -> refusals(...) -> elements of the table (`core.network.layout`), and whose
    counter is whose (`kernel.nft.counters`)

Segments may overlap: whom one allowance lets in is in. A refused packet counts for the smallest network
around its source.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from tunnels.settings import Allowance, IPNetwork, Ports, Tunnel, parse_ports


@dataclass(frozen=True, slots=True)
class Segment:
    """A named part of staff."""

    name: str
    networks: tuple[IPNetwork, ...]


@dataclass(frozen=True, slots=True)
class AccessRule:
    """A segment that may enter."""

    segment: str
    ports: tuple[Ports, ...] | None  # only to these; None: whatever it wants


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """The limits of one tunnel: nobody enters but by an entry."""

    tunnel: str
    lane: int
    entries: tuple[AccessRule, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """All staff from address `first` to `last` (numbers): these may not enter, except to some ports."""

    version: int
    first: int
    last: int
    segment: str  # "": in no segment
    ports: tuple[Ports, ...] = ()  # disjoint, in order


@dataclass(frozen=True, slots=True)
class _Area:
    """Addresses of staff that are in the same segments."""

    version: int
    first: int
    last: int
    segment: str  # the one with the smallest network here
    segments: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Span:
    """A network, of a segment or ("") of staff."""

    first: int
    after: int
    prefix: int
    segment: str


def gate(tunnel: Tunnel, lane: int) -> AccessPolicy | None:
    """The gate of a tunnel; None: everybody in `staff.networks` may enter."""
    return None if tunnel.allow is None else AccessPolicy(tunnel.name, lane, tuple(map(_entry, tunnel.allow)))


def _entry(allowance: Allowance) -> AccessRule:
    return AccessRule(
        allowance.segment, None if allowance.ports is None else tuple(map(parse_ports, allowance.ports))
    )


def refusals(
    staff: Sequence[IPNetwork], segments: Sequence[Segment], gates: Iterable[AccessPolicy]
) -> Iterator[tuple[AccessPolicy, Refusal]]:
    """What each gate refuses, in disjoint ranges that together are all of staff but those who may enter
    without limits.
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
    """Neighbours that are refused alike as one."""
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
    """The same ports in disjoint ranges."""
    found: list[Ports] = []
    for each in sorted(ports):
        if found and found[-1].protocol == each.protocol and each.first <= found[-1].last + 1:
            found[-1] = found[-1]._replace(last=max(found[-1].last, each.last))
        else:
            found.append(each)
    return tuple(found)


def _areas(version: int, staff: Sequence[IPNetwork], segments: Sequence[Segment]) -> Iterator[_Area]:
    """Sweep over the addresses; where a network begins or ends an area does."""
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
