"""Which peer of an interface gets a packet: the one with the longest network of AllowedIPs that holds its
destination (https://www.wireguard.com/#cryptokey-routing).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import collapse_addresses
from typing import Any

from tunnels.base import IPNetwork
from tunnels.kinds.wireguard.config import ConfiguredPeer


def owners(peers: Sequence[ConfiguredPeer], networks: Sequence[IPNetwork]) -> frozenset[bytes]:
    """The public keys of the peers that get packets to some address of these networks."""
    # of two peers with the same network the last one gets it
    routes = {allowed: peer.public_key for peer in peers for allowed in peer.allowed}
    return frozenset(key for network in networks for key in _owners(routes, network))


def _owners(routes: Mapping[IPNetwork, bytes], network: IPNetwork) -> Iterator[bytes]:
    overlapping: list[Any] = [route for route in routes if route.overlaps(network)]
    for route in overlapping:
        part = max(route, network, key=lambda each: each.prefixlen)
        longer = [each for each in overlapping if each.prefixlen > route.prefixlen and each.overlaps(part)]
        if not any(each.supernet_of(part) for each in collapse_addresses(longer)):
            yield routes[route]
