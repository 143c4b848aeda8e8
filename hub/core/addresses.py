"""Which address a session gets: the person's last one, else one that nobody had, else the one that has rested
longest. It rests before it changes its person, because flows and logs may still name the earlier one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network


@dataclass(frozen=True, slots=True)
class AddressPool:
    """The networks of the clients. Of each the first address is the server's, the last one is broadcast."""

    networks: tuple[IPv4Network, ...]
    reserved: frozenset[IPv4Address] = frozenset()  # of persons who always have the same one
    servers: int = 1  # so many addresses at the start of each network are the servers'

    def network_of(self, address: IPv4Address) -> IPv4Network | None:
        """The network that holds this address."""
        return next((network for network in self.networks if address in network), None)

    def usable(self, address: IPv4Address) -> bool:
        """It may be a client's."""
        network = self.network_of(address)
        if network is None:
            return False
        return int(network.network_address) + self.servers < int(address) < int(network.broadcast_address)

    def unused_after(self, highest: int | None) -> IPv4Address | None:
        """The first usable address above the highest one that was ever given out; None: there is none."""
        for network in sorted(self.networks):
            first = int(network.network_address) + self.servers + 1
            start = first if highest is None else max(first, highest + 1)
            for number in range(start, int(network.broadcast_address)):
                if IPv4Address(number) not in self.reserved:
                    return IPv4Address(number)
        return None

    def clients(self, addresses: Iterable[IPv4Address]) -> Iterator[IPv4Address]:
        """Those that any client may get."""
        return (each for each in addresses if self.usable(each) and each not in self.reserved)
