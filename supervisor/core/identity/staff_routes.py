"""Compares what the profiles of staff route with what this facilitator carries.

A destination that no profile routes is reached by nobody; a route to what nobody carries leads nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import collapse_addresses
from typing import Any

from tunnels.networks import IPNetwork


@dataclass(frozen=True, slots=True)
class StaffRoute:
    """A route in a profile of the staff VPN."""

    profile: str  # or the server that pushes it
    network: IPNetwork
    masks: bool = False  # packets leave with the VPN server's address, which hides the person
    advertised: bool = False  # the VPN server itself writes it into route tables of the cloud


def compared(
    routes: Sequence[StaffRoute], carried: Mapping[IPNetwork, str], staff: Iterable[IPNetwork]
) -> Iterator[str]:
    """What does not fit, a sentence each. `carried`: destinations as users address them, by tunnel."""
    if not routes:
        return
    for network, tunnel in carried.items():
        if not _within(network, [route.network for route in routes]):
            yield f"{network} ({tunnel}) is routed by no profile: nobody reaches it"
    for route in routes:
        if route.network.prefixlen == 0:
            continue  # all traffic goes through the VPN
        overlapping = [network for network in carried if _overlap(network, route.network)]
        if not overlapping and not any(_overlap(route.network, network) for network in staff):
            yield f"profile {route.profile} routes {route.network}, which no tunnel carries"
        if overlapping and route.masks:
            yield (
                f"route {route.network} of profile {route.profile} has nat: true: its users appear with the VPN "
                f"server's address, so nobody can be named or let in by name"
            )
        if overlapping and route.advertised:
            yield (
                f"route {route.network} of profile {route.profile} has advertise: true: the VPN server writes "
                f"the same routes of the cloud as this fleet"
            )


def _within(network: IPNetwork, others: Iterable[IPNetwork]) -> bool:
    same: Any = [other for other in others if other.version == network.version]
    return any(other.supernet_of(network) for other in collapse_addresses(same))


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and one.overlaps(other)
