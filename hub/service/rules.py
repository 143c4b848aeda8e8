"""What the service decides by: its settings and the files of people and seeds, as they are now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

from hub.core.addresses import AddressPool
from hub.core.codes import Seed
from hub.core.people import People, Person


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
    identity_seconds: int | None = None  # None: there is no identity provider
    login_url: str = ""  # where links lead
    claimed_groups: bool = False  # the identity provider names groups, too
    same_address: bool = True  # the browser has to have the address of the VPN client

    def grouped(self, person: Person, claimed: Iterable[str]) -> Person:
        """The person with the groups that the identity provider has named beside those of the file."""
        if not self.claimed_groups:
            return person
        return replace(person, groups=tuple(dict.fromkeys((*person.groups, *claimed))))

    def netmask(self, address: IPv4Address) -> IPv4Address:
        """Of the network that holds it."""
        network = self.pool.network_of(address)
        return network.netmask if network is not None else IPv4Address("255.255.255.255")
