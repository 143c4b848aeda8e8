"""Finds destinations that overlap, by the addresses that staff use.

Two networks are nested or disjoint. So one walk over them in order finds all overlaps, with a stack of the
networks that contain the current one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from itertools import groupby

from common.configuration.problems import KeyPath, Position, dotted
from tunnels.networks import IPNetwork


@dataclass(frozen=True, slots=True)
class DestinationClaim:
    """One destination as staff address it, and who carries it."""

    network: IPNetwork
    tunnel: str
    priority: int
    where: KeyPath
    position: Position
    line: str  # for messages: `line 12`

    @property
    def place(self) -> str:
        """Its location, for messages."""
        return f"{dotted(self.where)} in {self.line}"


def collisions(claims: Sequence[DestinationClaim]) -> Iterator[tuple[DestinationClaim, str]]:
    """The later claim of each two that collide, and why. The same network in two tunnels of different
    priority is failover, and allowed.
    """
    around: list[
        list[DestinationClaim]
    ] = []  # from the widest to the narrowest, each with all claims of this very network
    for _, equal in groupby(sorted(claims, key=_order), key=lambda claim: claim.network):
        group = list(equal)
        while around and not contains(around[-1][0].network, group[0].network):
            around.pop()
        twins = dict(_twins(group))
        yield from twins.items()
        if around:
            yield from (_nested(around[-1][0], claim) for claim in group if claim not in twins)
        around.append(group)


def contains(outer: IPNetwork, inner: IPNetwork) -> bool:
    """Is the inner network inside the outer one?"""
    if isinstance(outer, IPv4Network):
        return isinstance(inner, IPv4Network) and inner.subnet_of(outer)
    return isinstance(inner, IPv6Network) and inner.subnet_of(outer)


def _order(claim: DestinationClaim) -> tuple[int, int, int, Position]:
    return claim.network.version, int(claim.network.network_address), claim.network.prefixlen, claim.position


def _twins(group: Sequence[DestinationClaim]) -> Iterator[tuple[DestinationClaim, str]]:
    tunnels: dict[str, DestinationClaim] = {}
    priorities: dict[int, DestinationClaim] = {}
    for claim in group:
        same, rival = tunnels.get(claim.tunnel), priorities.get(claim.priority)
        if same is not None:
            yield claim, f"{claim.network} is there already: {same.place}"
        elif rival is not None:
            advice = "give the two tunnels different priorities if one stands in for the other"
            yield (
                claim,
                f"{claim.network} is also {rival.place}, with the same priority {claim.priority}; {advice}",
            )
        tunnels.setdefault(claim.tunnel, claim)
        priorities.setdefault(claim.priority, claim)


def _nested(outer: DestinationClaim, inner: DestinationClaim) -> tuple[DestinationClaim, str]:
    """The one that comes later in the file is reported."""
    first, second = sorted((outer, inner), key=lambda claim: claim.position)
    relation = "lies inside" if second is inner else "contains"
    return second, f"{second.network} {relation} {first.network}, which is {first.place}"
