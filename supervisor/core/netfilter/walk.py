"""Would the nftables rules of other programs let a packet pass? Answered by reading them, without sending
anything.

    Firewall (what the kernel holds), Packet (what is known about it) -> walk -> the rules and policies that
    drop it

A packet may stand for many: bits that are not known are left open, and then a rule matches certainly, perhaps
or not at all. What left it open is told (`staff`, `destination`, ...), so that who asks can ask again about
fewer packets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from supervisor.core.netfilter.registers import Registers
from supervisor.core.netfilter.values import (
    Consequence,
    ElementSet,
    Expression,
    FilterChain,
    FilterRule,
    Firewall,
    Member,
    SymbolicPacket,
    Truth,
)

_MOST_NESTED_JUMPS = 16  # NFT_JUMP_STACK_SIZE
_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Stop:
    """A rule, or the policy of a base chain, that drops the packet."""

    base: FilterChain  # at which it entered
    chain: str  # in which it ends
    how: str  # "policy drop", "drop" or "reject"
    truth: Truth
    open: frozenset[str]  # what it depends on, where it is not certain
    exceptions: bool  # rules before it may have led some away, and accepted them
    handle: int | None = None  # of the rule


@dataclass(frozen=True, slots=True)
class Walk:
    """Everything that may happen to the packet in one base chain."""

    stops: tuple[Stop, ...]
    open: frozenset[str]  # what any rule depended on that was not certain


def walk(firewall: Firewall, base: FilterChain, packet: SymbolicPacket) -> Walk:
    """What the chain makes of the packet."""
    walker = _Walker(firewall, base, packet)
    rest = walker.through(base, _Part(Truth.YES))
    if rest is not None and base.drops:
        walker.stop(base.name, "policy drop", rest)
    return Walk(tuple(walker.stops), frozenset(walker.open))


# --- how it is answered
# ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    """The packets that are still on their way: how sure it is that there are any, and whether some have
    left.
    """

    truth: Truth
    open: frozenset[str] = _NOTHING
    left: bool = False

    def where(self, truth: Truth, open: frozenset[str]) -> _Part:
        """Those of them that a rule matches."""
        return replace(
            self, truth=min(self.truth, truth), open=self.open | open if truth is Truth.MAYBE else self.open
        )


def _both(one: _Part | None, other: _Part | None) -> _Part | None:
    if one is None or other is None:
        return one or other
    return _Part(max(one.truth, other.truth), one.open | other.open, one.left or other.left)


class _Walker:
    def __init__(self, firewall: Firewall, base: FilterChain, packet: SymbolicPacket) -> None:
        self.stops: list[Stop] = []
        self.open: set[str] = set()
        self._base, self._packet, self._sets = base, packet, firewall.sets
        self._chains = {
            each.name: each
            for each in firewall.chains
            if (each.family, each.table) == (base.family, base.table)
        }

    def stop(self, chain: str, how: str, part: _Part, handle: int | None = None) -> None:
        self.stops.append(Stop(self._base, chain, how, part.truth, part.open, part.left, handle))

    def through(self, chain: FilterChain, part: _Part, depth: int = 0) -> _Part | None:
        """The packets that come out at the end of the chain, or return from it."""
        returned: _Part | None = None
        rest: _Part | None = part
        for rule in chain.rules if depth < _MOST_NESTED_JUMPS else ():
            for truth, open, consequence in self._consequences(rule):
                if rest is None or truth is Truth.NO:
                    continue
                self.open |= open if truth is Truth.MAYBE else _NOTHING
                back, gone_on = self._after(chain, rule, rest.where(truth, open), consequence, depth)
                returned = _both(returned, back)
                stayed = replace(rest, left=rest.left or gone_on is None)
                rest = gone_on if truth is Truth.YES else _both(gone_on, stayed)
        return _both(returned, rest)

    def _after(
        self, chain: FilterChain, rule: FilterRule, part: _Part, then: Consequence, depth: int
    ) -> tuple[_Part | None, _Part | None]:
        """Of the packets that match: those that leave the chain for the one before it, and those that go
        on in it.
        """
        match then.how:
            case "drop" | "reject":
                if not rule.ours:
                    self.stop(chain.name, then.how, part, rule.handle)
                return None, None
            case "return":
                return part, None
            case "jump":
                return None, self._into(then.chain, part, depth)
            case "goto":
                return self._into(then.chain, part, depth), None
        return None, None

    def _into(self, name: str, part: _Part, depth: int) -> _Part | None:
        return self.through(self._chains[name], part, depth + 1) if name in self._chains else part

    def _consequences(self, rule: FilterRule) -> Iterator[tuple[Truth, frozenset[str], Consequence]]:
        """What the rule may do, and to which of the packets. One that was made for us does it to all of
        them.
        """
        registers = Registers(self._packet)
        truth, open = Truth.YES, _NOTHING
        for expression in rule.expressions:
            if isinstance(expression, Consequence):
                yield truth, open, expression
                return
            found = registers.take(expression, self._set(expression))
            for each in found:
                matched = Truth.YES if rule.ours and each.truth is Truth.MAYBE else each.truth
                if each.consequence is not None:
                    yield min(truth, matched), open | each.open, each.consequence
                else:
                    truth, open = (
                        min(truth, matched),
                        open | (each.open if matched is Truth.MAYBE else _NOTHING),
                    )
            if truth is Truth.NO:
                return

    def _set(self, expression: Expression) -> ElementSet | None:
        return (
            self._sets.get((self._base.family, self._base.table, expression.set))
            if isinstance(expression, Member)
            else None
        )
