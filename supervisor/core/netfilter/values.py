"""nftables rules of other programs, and what is known about a packet that meets them: values only."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from tunnels.networks import IPAddress, IPNetwork

# A rule with this word in its comment was made for us: it is taken to apply to all of our packets.
OURS = "facilitator"


class Truth(enum.IntEnum):
    """Whether a rule matches all of the packets in question (YES), perhaps some of them (MAYBE),
    or none (NO).
    """

    NO = 0
    MAYBE = 1
    YES = 2


@dataclass(frozen=True, slots=True)
class Bits:
    """Bytes of which some bits are known. `about`: what the others depend on."""

    value: bytes
    known: bytes
    about: str = "other"

    @classmethod
    def exactly(cls, value: bytes, about: str = "other") -> Bits:
        """All bits are known."""
        return cls(value, b"\xff" * len(value), about)

    @classmethod
    def unknown(cls, size: int, about: str = "other") -> Bits:
        """None is."""
        return cls(bytes(size), bytes(size), about)

    @classmethod
    def common(cls, values: Iterable[Bits], size: int, about: str) -> Bits:
        """What all of these have in common; of none of them nothing is known."""
        found = list(values)
        if not found:
            return cls.unknown(size, about)
        known = int.from_bytes(found[0].known)
        for each in found:
            known &= int.from_bytes(each.known) & ~(
                int.from_bytes(each.value) ^ int.from_bytes(found[0].value)
            )
        return cls((int.from_bytes(found[0].value) & known).to_bytes(size), known.to_bytes(size), about)

    @classmethod
    def of(cls, network: IPNetwork | IPAddress, about: str) -> Bits:
        """An address somewhere in the network."""
        address = network if isinstance(network, IPAddress) else network.network_address
        mask = b"\xff" * len(address.packed) if isinstance(network, IPAddress) else network.netmask.packed
        return cls(address.packed, mask, about)


# --- what the kernel holds
# ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoadExpression:
    """Puts something of the packet into a register: a field by its name, or bytes of a header (`network`
    or `transport`).
    """

    to: int  # first byte of the register
    source: str
    size: int
    offset: int = 0  # in the header


@dataclass(frozen=True, slots=True)
class Constant:
    """Puts a constant into a register."""

    to: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Masked:
    """Leaves some bits of a register and turns others round."""

    to: int
    at: int
    mask: bytes
    xor: bytes


@dataclass(frozen=True, slots=True)
class Swapped:
    """Turns the order of bytes round, unit by unit."""

    to: int
    at: int
    size: int
    unit: int


@dataclass(frozen=True, slots=True)
class Compare:
    """Goes on only if the register compares so."""

    at: int
    operator: str  # == != < <= > >=
    value: bytes


@dataclass(frozen=True, slots=True)
class Between:
    """Goes on only if the register lies in the range, or outside of it."""

    at: int
    first: bytes
    last: bytes
    outside: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """Goes on only if the register is in the set, or is not. A map of verdicts ends the rule with the
    element's.
    """

    at: int
    set: str
    outside: bool = False
    to: int | None = None  # of a map of data: the register that gets it


@dataclass(frozen=True, slots=True)
class Opaque:
    """An expression that is not understood: a register gets an unknown value; without one the rule may also
    end here.
    """

    to: int | None = None
    size: int = 4


@dataclass(frozen=True, slots=True)
class Consequence:
    """What happens to the packet: accept, drop, reject, return, or jump or goto to another chain."""

    how: str
    chain: str = ""


Expression = LoadExpression | Constant | Masked | Swapped | Compare | Between | Member | Opaque | Consequence


@dataclass(frozen=True, slots=True)
class FilterRule:
    """A rule of a chain."""

    handle: int  # the kernel's number, by which it can be deleted
    expressions: tuple[Expression, ...]
    comment: str = ""

    @property
    def ours(self) -> bool:
        """It was made for us (OURS in its comment)."""
        return OURS in self.comment


@dataclass(frozen=True, slots=True)
class FilterChain:
    """A chain. Only a base chain has a hook."""

    family: str  # ip, ip6, inet or netdev
    table: str
    name: str
    rules: tuple[FilterRule, ...] = ()
    hook: str = ""  # prerouting, input, forward, output, postrouting, ingress
    priority: int = 0
    drops: bool = False  # by its policy
    devices: tuple[str, ...] = ()  # of a netdev chain

    def __str__(self) -> str:
        return f"table {self.family} {self.table}, chain {self.name}"


@dataclass(frozen=True, slots=True)
class SetInterval:
    """An element of a set: everything from `first` to `last`, part by part where it is a concatenation."""

    first: bytes
    last: bytes
    consequence: Consequence | None = None


@dataclass(frozen=True, slots=True)
class ElementSet:
    """A set or map. Without elements where there are too many to be read."""

    elements: tuple[SetInterval, ...] | None
    parts: tuple[int, ...] = ()  # bytes of the fields of a concatenation


@dataclass(frozen=True, slots=True)
class Firewall:
    """The tables of other programs."""

    chains: tuple[FilterChain, ...] = ()
    sets: Mapping[tuple[str, str, str], ElementSet] = field(default_factory=dict)  # by family, table and name

    @property
    def base(self) -> tuple[FilterChain, ...]:
        """The chains at which packets enter."""
        return tuple(chain for chain in self.chains if chain.hook)

    def reach(self, chain: FilterChain) -> frozenset[str]:
        """The chain and all chains of its table that it leads to."""
        siblings = {
            each.name: each
            for each in self.chains
            if (each.family, each.table) == (chain.family, chain.table)
        }
        waiting, seen = [chain.name], {chain.name}
        while waiting:
            led_to = {
                name for rule in siblings[waiting.pop()].rules for name in self._targets(chain, rule)
            } & siblings.keys()
            waiting += led_to - seen
            seen |= led_to
        return frozenset(seen)

    def _targets(self, chain: FilterChain, rule: FilterRule) -> Iterator[str]:
        for expression in rule.expressions:
            if isinstance(expression, Consequence):
                yield expression.chain
            elif isinstance(expression, Member):
                known = self.sets.get((chain.family, chain.table, expression.set))
                yield from (
                    each.consequence.chain
                    for each in (known.elements or () if known else ())
                    if each.consequence
                )


# --- what is asked
# ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SymbolicPacket:
    """What is known about a packet, or about many."""

    version: int
    fields: Mapping[str, Bits]  # by the names of `LoadExpression`
    network: Bits  # the IP header
    transport: Bits  # the one behind it
    source: str = "other"  # what unknown bits of its addresses depend on
    target: str = "other"
