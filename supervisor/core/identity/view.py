"""What is known of people at one moment, for documents and for access by person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address

from supervisor.core.identity.book import Holding
from tunnels.networks import IPAddress


@dataclass(frozen=True, slots=True)
class IdentityView:
    """Who has which address now. `age`: seconds since the source was last heard of; None: never."""

    source: str  # as the configuration names it
    present: Mapping[IPAddress, Holding] = field(default_factory=dict)
    age: float | None = None
    stale: bool = True  # rules by person are closed
    problem: str | None = None  # why the source cannot be read; None: it can
    expelled: frozenset[IPAddress] = frozenset()  # whose sessions were ended by an order
    skipped: int = 0  # entries of its last answer that could not be used

    def of(self, address: IPAddress) -> Holding | None:
        """The session that has this address; None: nobody's is known."""
        return self.present.get(address)


def present(latest: Iterable[Holding]) -> dict[IPAddress, Holding]:
    """The sessions that hold an address now."""
    return {ip_address(each.address): each for each in latest if each.ended is None}


def ordered_out(latest: Iterable[Holding], since: float) -> tuple[IPAddress, ...]:
    """The addresses whose last session was ended by an order after this moment, and which nobody has got
    since: the VPN may not have carried the order out yet.
    """
    ended = (each for each in latest if each.ended is not None and each.ordered and each.ended > since)
    found = (ip_address(each.address) for each in ended)
    return tuple(sorted(found, key=lambda address: (address.version, int(address))))


def sentence(holding: Holding) -> str:
    """A session in words, without its address."""
    groups = f" ({', '.join(holding.groups)})" if holding.groups else ""
    began = datetime.fromtimestamp(holding.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    client = f", {holding.client}" if holding.client else ""
    node = f" on {holding.node}" if holding.node else ""
    ended = ""
    if holding.ended is not None:
        ended = f", until {datetime.fromtimestamp(holding.ended, UTC).strftime('%Y-%m-%d %H:%M:%S UTC')}"
    return f"{holding.person}{groups}, session {holding.session}, since {began}{ended}{client}{node}"
