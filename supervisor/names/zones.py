"""Whose name is it: from a name to the tunnels behind which it is asked, and between the addresses of a
customer and those that staff use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from supervisor.core.names.values import MappedNetwork, NamesOfTunnel
from supervisor.names.wire import labels, wire_name
from tunnels.networks import IPAddress, IPNetwork

_IN_ADDR, _IP6 = wire_name("in-addr.arpa"), wire_name("ip6.arpa")
_OCTETS, _NIBBLES = 4, 32


@dataclass(frozen=True, slots=True)
class Zone:
    """One tunnel, as it is asked for names."""

    tunnel: str
    about: NamesOfTunnel
    suffixes: tuple[bytes, ...]  # its domains in wire form

    def holds(self, name: bytes) -> bool:
        """The name (wire form, any case) lies in one of the tunnel's domains."""
        return any(each in self.suffixes for each in suffixes(name.lower()))

    def presented(self, real: IPAddress) -> IPAddress | None:
        """The address that staff use for one of the customer's; None: it lies in no destination."""
        return _moved(real, ((each.real, each.presented) for each in self.about.networks))

    def real(self, presented: IPAddress) -> IPAddress | None:
        """The customer's address for one that staff use."""
        return _moved(presented, ((each.presented, each.real) for each in self.about.networks))


def _moved(address: IPAddress, networks: Iterable[tuple[IPNetwork, IPNetwork]]) -> IPAddress | None:
    """The address at the same place of the other network; the smallest network around it counts."""
    found = [(here, there) for here, there in networks if address in here]
    if not found:
        return None
    here, there = max(found, key=lambda pair: pair[0].prefixlen)
    offset = int(address) - int(here.network_address)
    return there[offset]


def suffixes(name: bytes) -> Iterator[bytes]:
    """The name itself and all domains that it lies in, in wire form, without the root."""
    at = 0
    while name[at]:
        yield name[at:]
        at += name[at] + 1


class Directory:
    """All tunnels by domain and by address."""

    def __init__(self, tunnels: Mapping[str, NamesOfTunnel]) -> None:
        self.zones = {name: Zone(name, about, _wire(about.domains)) for name, about in tunnels.items()}
        self._by_suffix: dict[bytes, list[Zone]] = {}
        self._reverse: dict[tuple[int, int, int], list[Zone]] = {}  # version, prefix length, network
        for zone in sorted(self.zones.values(), key=lambda each: (each.about.priority, each.tunnel)):
            for suffix in zone.suffixes:
                self._by_suffix.setdefault(suffix, []).append(zone)
            for network in zone.about.networks if zone.about.reverse else ():
                self._reverse.setdefault(_key(network), []).append(zone)
        self._lengths = sorted({key[:2] for key in self._reverse}, reverse=True)

    def of_name(self, name: bytes) -> Zone | None:
        """The tunnel behind which the name (wire form, lower case) is asked: of several the first that is up,
        else the first.
        """
        by_suffix = self._by_suffix
        for suffix in suffixes(name):
            if suffix in by_suffix:
                return _best(by_suffix[suffix])
        return None

    def of_address(self, address: IPAddress) -> Zone | None:
        """The tunnel that reaches an address that staff use."""
        number, bits = int(address), address.max_prefixlen
        for version, length in self._lengths:
            if version == address.version:
                zones = self._reverse.get((version, length, number >> bits - length))
                if zones:
                    return _best(zones)
        return None


def _wire(domains: Sequence[str]) -> tuple[bytes, ...]:
    return tuple(map(wire_name, domains))


def _key(network: MappedNetwork) -> tuple[int, int, int]:
    presented = network.presented
    first, rest = int(presented.network_address), presented.max_prefixlen - presented.prefixlen
    return presented.version, presented.prefixlen, first >> rest


def _best(zones: Sequence[Zone]) -> Zone:
    return next((zone for zone in zones if not zone.about.down), zones[0])


def is_reverse(name: bytes) -> bool:
    """A name below in-addr.arpa or ip6.arpa (wire form, lower case)."""
    return name.endswith((_IN_ADDR, _IP6))


def address_of(name: bytes) -> IPAddress | None:
    """The address whose name is asked for (wire form, lower case); None: it is no whole address."""
    parts = labels(name)
    kind, digits = parts[-2:], parts[:-2][::-1]
    try:
        if kind == [b"in-addr", b"arpa"] and len(digits) == _OCTETS:
            return IPv4Address(b".".join(digits).decode("ascii"))
        if kind == [b"ip6", b"arpa"] and len(digits) == _NIBBLES:
            return IPv6Address(int(b"".join(digits), 16)) if all(len(d) == 1 for d in digits) else None
    except ValueError:
        pass
    return None


def reverse_name(address: IPAddress) -> bytes:
    """The name under which the name of an address stands."""
    return wire_name(address.reverse_pointer)


def as_address(data: bytes) -> IPAddress:
    """The address in the data of an A or AAAA record."""
    return ip_address(data)
