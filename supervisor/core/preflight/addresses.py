"""Preflight checks: addresses that collide with destinations, and what only the cloud's network sees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from types import MappingProxyType

from supervisor.core.network.intervals import Interval
from supervisor.core.preflight.facts import Endpoint, HostAddress, HostFacts
from supervisor.core.preflight.finding import Finding, info, ok, perhaps, problem
from supervisor.core.preflight.routing import local
from tunnels.networks import IPAddress, IPNetwork

# --- addresses
# ----------------------------------------------------------------------------------------------------------


def endpoints(facts: HostFacts) -> Iterator[Finding]:
    """Can the remote gateways be resolved, and reached without a tunnel?"""
    for endpoint in facts.endpoints:
        found = list(inside(endpoint, facts))
        yield from found
        if endpoint.error is not None:
            text = f"{endpoint.what}: {endpoint.name}: {endpoint.error}"
            yield problem("endpoints", text, f"getent ahosts {endpoint.name}; cat /etc/resolv.conf")
        elif not found:
            yield ok("endpoints", f"{endpoint.what}: {_named(endpoint.name, *endpoint.addresses)}")


def enclosed(facts: HostFacts) -> Iterator[Finding]:
    """The remote gateways that lie inside a destination."""
    for endpoint in facts.endpoints:
        yield from inside(endpoint, facts)


def inside(endpoint: Endpoint, facts: HostFacts) -> Iterator[Finding]:
    """A finding for each of its addresses that a destination covers."""
    for address in endpoint.addresses:
        for tunnel, network in facts.requirements.destinations:
            if address in network:
                text = (
                    f"{endpoint.what}: {_named(endpoint.name, address)} lies inside {network}, a "
                    f"destination of {tunnel}: "
                    "nothing leaves for it but through that tunnel, so it can never be reached"
                )
                yield problem(
                    "endpoints", text, _without(network, HostAddress(ip_network(address), endpoint.name))
                )


def _named(name: str, *addresses: IPAddress) -> str:
    known = ", ".join(map(str, addresses))
    return name if name == known else f"{name} ({known})"


def addresses(facts: HostFacts) -> Iterator[Finding]:
    """Does a destination cover an address that this host itself needs?"""
    found = [
        *local(facts),
        *(_collision(own, tunnel, network) for own, tunnel, network in _overlapping(facts)),
    ]
    yield from found
    if not found:
        yield ok("addresses", "no destination covers this host's own networks, gateways or name servers")


def _overlapping(facts: HostFacts) -> Iterator[tuple[HostAddress, str, IPNetwork]]:
    """Compares integers, not networks: there may be ten thousand destinations."""
    spans = [(Interval.of(network), tunnel, network) for tunnel, network in facts.requirements.destinations]
    for own in facts.own:
        version, first, last = Interval.of(own.network)
        for span, tunnel, network in spans:
            if span[1] <= last and first <= span[2] and span[0] == version:
                yield own, tunnel, network


def _collision(own: HostAddress, tunnel: str, network: IPNetwork) -> Finding:
    if own.network.prefixlen >= network.prefixlen:
        text = (
            f"{network}, a destination of {tunnel}, covers {own.what} ({_short(own.network)}): this "
            f"host itself could no longer reach it"
        )
        return problem("addresses", text, _without(network, own))
    text = (
        f"{network}, a destination of {tunnel}, lies inside {own.what} ({own.network}): neighbours "
        f"with such addresses are cut off"
    )
    return perhaps(
        "addresses",
        text,
        f"destinations: [{{network: {network}, presented_as: ANOTHER-NETWORK/{network.prefixlen}}}]",
    )


def _short(network: IPNetwork) -> str:
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


_MAX_SPLIT_BITS = 8


def _without(network: IPNetwork, own: HostAddress) -> str:
    """How to configure the destination without the address."""
    steps = own.network.prefixlen - network.prefixlen
    if not 0 < steps <= _MAX_SPLIT_BITS:
        return (
            f"destinations: "
            f"[{{network: {network}, presented_as: ANOTHER-NETWORK/{network.prefixlen}}}]   # or "
            f"narrower networks"
        )
    rest = sorted(network.address_exclude(own.network))  # type: ignore[arg-type]
    return f"destinations: [{', '.join(map(str, rest))}]   # {network} without {own.network}"


# --- cloud
# ----------------------------------------------------------------------------------------------------------

_SWITCHES: Mapping[str, str] = MappingProxyType(
    {
        "amazon": "aws ec2 modify-instance-attribute --no-source-dest-check --instance-id INSTANCE",
        "google": "the instance must have been made with: gcloud compute instances create ... "
        "--can-ip-forward",
        "microsoft": "az network nic update --ip-forwarding true --resource-group GROUP --name NIC",
        "openstack": "openstack port set --allowed-address ip-address=STAFF-NETWORK PORT",
    }
)


def cloud(facts: HostFacts) -> Iterator[Finding]:
    """What cannot be seen from this host."""
    made = facts.cloud or ""
    switch = next((text for maker, text in _SWITCHES.items() if maker in made.lower()), None)
    where = f"this machine is made by {made}: its" if switch else "in a cloud, the network's"
    text = (
        f"{where} source/destination check must be off for this machine, else no packet of the staff "
        f"arrives (not visible from here)"
    )
    yield info("cloud", text, switch or "AWS: " + _SWITCHES["amazon"])
