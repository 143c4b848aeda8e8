"""What the service decides by: its settings and the files of people and seeds, as they are now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from hub.core.addresses import AddressPool
from hub.core.codes import Seed
from hub.core.people import People


@dataclass(frozen=True, slots=True)
class Rules:
    """Replaced as a whole when a file changes."""

    pool: AddressPool
    people: People = field(default_factory=dict)
    seeds: Mapping[str, Seed] = field(default_factory=dict)
    session_seconds: float = 12 * 3600.0
    per_person: int = 2  # sessions at a time
    attempts: int = 10  # logins in a minute
    rest_seconds: float = 600.0  # of an address
    remember_seconds: float = 12 * 3600.0  # a valid auth-token spares the second factor
    challenge_seconds: int = 120
    approval_seconds: int | None = None  # None: logins by notification are not configured

    def netmask(self, address: IPv4Address) -> IPv4Address:
        """Of the network that holds it."""
        network = self.pool.network_of(address)
        return network.netmask if network is not None else IPv4Address("255.255.255.255")
