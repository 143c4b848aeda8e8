"""Ranges of addresses and of ports, and longest prefix match over a list of networks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, summarize_address_range
from typing import NamedTuple, TypeVar

from tunnels.networks import IPNetwork

ValueT = TypeVar("ValueT")


class Interval(NamedTuple):
    """All addresses from `first` to `last`, as numbers."""

    version: int
    first: int
    last: int

    @classmethod
    def of(cls, network: IPNetwork) -> Interval:
        """The addresses of a network."""
        first = int(network.network_address)
        return cls(network.version, first, first | (1 << network.max_prefixlen - network.prefixlen) - 1)

    def __str__(self) -> str:
        make = IPv4Address if self.version == 4 else IPv6Address
        first, last = make(self.first), make(self.last)
        networks: list[IPNetwork] = list(summarize_address_range(first, last))
        return str(networks[0]) if len(networks) == 1 else f"{first}-{last}"


@dataclass(frozen=True, slots=True)
class Range:
    """All ports from `first` to `last`."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def merged(intervals: Iterable[Interval]) -> Iterator[Interval]:
    """The same addresses in as few intervals as possible."""
    grown: Interval | None = None
    for interval in sorted(intervals):
        if grown is not None and interval.version == grown.version and interval.first <= grown.last + 1:
            grown = Interval(grown.version, grown.first, max(grown.last, interval.last))
            continue
        if grown is not None:
            yield grown
        grown = interval
    if grown is not None:
        yield grown


def longest_prefix(networks: Iterable[tuple[IPNetwork, ValueT]]) -> list[tuple[Interval, ValueT]]:
    """Disjoint intervals that give each address the value of its longest matching prefix (of equal networks:
    the first).
    """
    first: dict[Interval, ValueT] = {}
    for network, value in networks:
        first.setdefault(Interval.of(network), value)
    found: list[tuple[Interval, ValueT]] = []
    around: list[tuple[Interval, ValueT]] = []  # the networks that the sweep is inside of, outermost first
    at = 0  # everything before this address is settled
    for interval in sorted(first, key=lambda i: (i.version, i.first, -i.last)):
        if around:
            at = _leave(around, found, at, interval)
            if around and at < interval.first:
                found.append((Interval(interval.version, at, interval.first - 1), around[-1][1]))
        around.append((interval, first[interval]))
        at = interval.first
    _leave(around, found, at, None)
    return found


def _leave(
    around: list[tuple[Interval, ValueT]],
    found: list[tuple[Interval, ValueT]],
    at: int,
    until: Interval | None,
) -> int:
    """Close the networks that end before `until` begins; the first address that is not covered yet."""
    while around and (
        until is None or until.version != around[-1][0].version or around[-1][0].last < until.first
    ):
        interval, value = around.pop()
        if at <= interval.last:
            found.append((Interval(interval.version, at, interval.last), value))
        at = interval.last + 1
    return at
