"""What the kernel holds or should hold, item by item, as a value.

A layout is a set of values: routes, policy rules, whether our nftables table stands, and the elements of its
sets and maps. The rules of the table never change; everything that depends on the plan is an element.
`core.network.wanted` says what a plan wants, `core.network.changes` what must change; `supervisor.kernel`
reads layouts and carries out changes; `facilitator plan` prints them.

Nothing heavy is imported here: `facilitator close` has 300 ms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from supervisor.core.network.intervals import Interval, Range
from supervisor.core.network.rules import RETURN_TABLE, Rule
from tunnels.networks import IPAddress, IPNetwork

MAIN_TABLE = 254
CLOSED_METRIC = 20_000  # of the permanent unreachable routes: any real route is better


@dataclass(frozen=True, slots=True)
class Device:
    """A network interface that exists."""

    index: int  # ifindex: an interface that is recreated gets another one
    mtu: int  # bytes
    up: bool  # administratively
    ipv6: bool  # it takes IPv6 routes


@dataclass(frozen=True, slots=True)
class HostFeatures:
    """What the layout depends on beside the plan."""

    devices: Mapping[str, Device] = field(default_factory=dict)
    ipv6: bool = True  # the kernel speaks IPv6 at all
    shared: Mapping[str, str] = field(default_factory=dict)  # by member: the interface of a shared subnet

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions to lay out routes and rules for."""
        return (4, 6) if self.ipv6 else (4,)


# Of routes, elements and changes there are ten thousands: named tuples are made, hashed and compared five
# times as fast as dataclasses.
Part = int | str | Interval | Range


class Route(NamedTuple):
    """A route of ours. `kind` is the kernel's word: unreachable, unicast (into a device), local, ..."""

    network: IPNetwork
    table: int
    metric: int
    kind: str = "unreachable"
    device: str | None = None
    gateway: IPAddress | None = None  # next hop; it is taken to be on the link, whatever the addresses say

    @property
    def place(self) -> tuple[IPNetwork, int, int]:
        """Where it stands: of two routes in one place the kernel keeps one."""
        return self.network, self.table, self.metric

    @property
    def announces(self) -> bool:
        """It forwards nothing: no rule leads to its table, from which a BGP speaker learns it."""
        return self.table != MAIN_TABLE and self.table < RETURN_TABLE

    def __str__(self) -> str:
        kind = "" if self.kind == "unicast" else f" {self.kind}"
        device = "" if self.device is None else f" dev {self.device}"
        device = device if self.gateway is None else f" via {self.gateway}{device}"
        table = "" if self.table == MAIN_TABLE else f" table {self.table}"
        return f"route {self.network}{kind}{device}{table} metric {self.metric}"


@dataclass(frozen=True, slots=True)
class Table:
    """The nftables table `inet facilitator` with its sets, chains and rules, as far as they depend on
    nothing.
    """

    def __str__(self) -> str:
        return "table inet facilitator"


class Element(NamedTuple):
    """An element of a set (no value) or of a map in our nftables table. More than one part: a
    concatenation.
    """

    set: str
    key: tuple[Part, ...]
    value: tuple[Part, ...] = ()

    def __str__(self) -> str:
        value = f" : {_concatenation(self.value)}" if self.value else ""
        return f"element {self.set} {_concatenation(self.key)}{value}"


Item = Route | Rule | Table | Element


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything in the kernel that is ours."""

    routes: frozenset[Route] = frozenset()
    rules: frozenset[Rule] = frozenset()
    table: bool = False
    elements: frozenset[Element] = frozenset()

    def __contains__(self, item: Item) -> bool:
        match item:
            case Route():
                return item in self.routes
            case Rule():
                return item in self.rules
            case Table():
                return self.table
            case Element():
                return item in self.elements


def _concatenation(parts: Sequence[Part]) -> str:
    return " . ".join(str(part) for part in parts)
