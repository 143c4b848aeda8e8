"""What the process of the name service is told: who may ask, and each tunnel with its domains, servers, lane
and mapping of addresses. Plain values (`common.plain`), so that they travel as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.configuration.notation import Listen
from tunnels.networks import IPAddress, IPNetwork


@dataclass(frozen=True, slots=True)
class MappedNetwork:
    """A destination of a tunnel: its addresses at the customer, and as staff use them."""

    real: IPNetwork
    presented: IPNetwork  # the same where nothing is mapped


@dataclass(frozen=True, slots=True)
class NamesOfTunnel:
    """Everything that is needed to ask behind one tunnel."""

    domains: tuple[str, ...]  # in lower case, without the last dot
    servers: tuple[IPAddress, ...]  # at the customer
    networks: tuple[MappedNetwork, ...]
    reverse: bool  # also names of addresses
    mark: int  # the lane (fwmark) that its queries take
    device: str | None  # the interface that they take; None: the lane's proxy, which carries TCP only
    allowed: tuple[IPNetwork, ...] | None = None  # staff that may ask; None: all of them
    down: str = ""  # why it cannot be asked now, as a sentence; "": it can
    priority: int = 100  # of two tunnels with one domain the one that is up with the lowest number is asked


@dataclass(frozen=True, slots=True)
class AskingRules:
    """Who may ask, and what becomes of names that are nobody's."""

    staff: tuple[IPNetwork, ...]
    denied: tuple[IPAddress, ...] = ()  # sources that get no answer
    upstream: tuple[IPAddress, ...] = ()  # servers for all other names; none: these are refused
    listen: tuple[Listen, ...] = ()


@dataclass(frozen=True, slots=True)
class NameServiceState:
    """All of it."""

    rules: AskingRules
    tunnels: Mapping[str, NamesOfTunnel] = field(default_factory=dict)
