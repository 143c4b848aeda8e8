"""Is an address that a remote gateway assigns in use elsewhere? One decision for all kinds of tunnel.

    address on an interface, Surroundings -> conflict() -> None, or one sentence that says with what it
    collides

An assigned address normally exists in source NAT only, where it collides with nothing. Some clients insist on
putting it on their interface. There it takes effect for the whole host: packets to that address no longer
leave, whoever they are meant for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network

from tunnels.networks import IPAddress, IPNetwork

THIS_NETWORK = ip_network("0.0.0.0/8")  # RFC 791, section 3.2: a host that does not know its own address


@dataclass(frozen=True, slots=True)
class AddressesInUse:
    """The addresses that somebody else on or near this host needs."""

    staff: tuple[IPNetwork, ...] = ()  # staff.networks
    own: Mapping[IPAddress, str] = field(default_factory=dict)  # addresses of this host, with their interface
    next_hops: frozenset[IPAddress] = frozenset()  # of this host's routes
    resolvers: frozenset[IPAddress] = frozenset()  # of this host
    gateways: Mapping[IPAddress, str] = field(
        default_factory=dict
    )  # remote gateways of other tunnels, with the tunnel
    assigned: Mapping[IPAddress, str] = field(
        default_factory=dict
    )  # addresses of other tunnels, with the tunnel
    destinations: tuple[tuple[IPNetwork, str], ...] = ()  # of other tunnels, with the tunnel


def unusable(address: IPAddress) -> str | None:
    """Why nobody can have this address; None: somebody can."""
    if (
        address.is_unspecified
        or address.is_loopback
        or address.is_multicast
        or address.is_reserved
        or address in THIS_NETWORK
    ):
        return f"the remote gateway assigned {address}, which is no address that a host can have"
    return None


def conflict(address: IPAddress, around: AddressesInUse) -> str | None:
    """With what an address on a tunnel's interface collides, in one sentence; None: with nothing."""
    if (text := unusable(address)) is not None:
        return text
    user = _user(address, around)
    return None if user is None else f"the remote gateway assigned {address}, which is {user}"


def _user(address: IPAddress, around: AddressesInUse) -> str | None:
    return next(_users(address, around), None)


def _users(address: IPAddress, around: AddressesInUse) -> Iterator[str]:
    if address in around.own:
        yield f"an address of this host ({around.own[address]})"
    yield from (f"in staff.networks ({network})" for network in around.staff if address in network)
    if address in around.next_hops:
        yield "the next hop of a route of this host"
    if address in around.resolvers:
        yield "a DNS resolver of this host"
    if address in around.gateways:
        yield f"the remote gateway of tunnel {around.gateways[address]}"
    if address in around.assigned:
        yield f"also the address of tunnel {around.assigned[address]}"
    yield from (
        f"in {network}, a destination of tunnel {name}"
        for network, name in around.destinations
        if address in network
    )
