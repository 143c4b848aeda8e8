"""The registers in which a rule of nftables compares a packet, with bits that may be unknown."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from supervisor.core.netfilter.values import (
    Between,
    Bits,
    Compare,
    Consequence,
    Constant,
    ElementSet,
    Expression,
    LoadExpression,
    Masked,
    Member,
    Opaque,
    SetInterval,
    Swapped,
    SymbolicPacket,
    Truth,
)

_REGISTER_BYTES = 64  # all registers together
_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ExpressionResult:
    """What one expression says."""

    truth: Truth
    open: frozenset[str] = _NOTHING
    consequence: Consequence | None = None


_GOES_ON = (ExpressionResult(Truth.YES),)


class Registers:
    """The registers of one rule, byte by byte: value, which bits are known, and what the others depend on."""

    def __init__(self, packet: SymbolicPacket) -> None:
        self._packet = packet
        self._value, self._known = bytearray(_REGISTER_BYTES), bytearray(b"\xff" * _REGISTER_BYTES)
        self._about = ["other"] * _REGISTER_BYTES

    def take(self, expression: Expression, elements: ElementSet | None) -> tuple[ExpressionResult, ...]:
        """Carry one expression out."""
        match expression:
            case LoadExpression():
                return self._load(expression)
            case Constant():
                self._put(expression.to, Bits.exactly(expression.value))
            case Masked():
                self._mask(expression)
            case Swapped():
                self._swap(expression)
            case Compare():
                return (
                    self._judged(
                        expression.at, len(expression.value), _compared(self._get(expression), expression)
                    ),
                )
            case Between():
                truth = _within(
                    self._bits(expression.at, len(expression.first)), expression.first, expression.last
                )
                return (
                    self._judged(
                        expression.at,
                        len(expression.first),
                        Truth(2 - truth) if expression.outside else truth,
                    ),
                )
            case Member():
                return tuple(self._member(expression, elements))
            case Opaque():
                if expression.to is None:
                    self._put(0, Bits.unknown(_REGISTER_BYTES))
                    return (ExpressionResult(Truth.MAYBE, frozenset({"other"})),)
                self._put(expression.to, Bits.unknown(expression.size))
        return _GOES_ON

    def _load(self, load: LoadExpression) -> tuple[ExpressionResult, ...]:
        if load.source in ("network", "transport"):
            header = self._packet.network if load.source == "network" else self._packet.transport
            size = max(0, min(load.size, len(header.value) - load.offset))
            part = slice(load.offset, load.offset + size)
            missing = bytes(load.size - size)
            self._put(load.to, Bits(header.value[part] + missing, header.known[part] + missing, header.about))
            self._name_addresses(load)
            return _GOES_ON
        bits = self._packet.fields.get(load.source, Bits.unknown(load.size))
        if (
            load.source.startswith("ct ")
            and load.source not in self._packet.fields
            and "ct mark" not in self._packet.fields
        ):
            return (ExpressionResult(Truth.NO),)  # no flow yet: the rule ends here
        self._put(load.to, bits)
        return _GOES_ON

    def _name_addresses(self, load: LoadExpression) -> None:
        """Whose the addresses in the IP header are."""
        if load.source == "network":
            first, size = (12, 4) if self._packet.version == 4 else (8, 16)
            for at in range(load.size):
                which = (load.offset + at - first) // size
                if which in (0, 1):
                    self._about[load.to + at] = self._packet.source if which == 0 else self._packet.target

    def _put(self, to: int, bits: Bits) -> None:
        """The kernel fills up to four bytes with zeros."""
        padding = -len(bits.value) % 4
        size = len(bits.value) + padding
        part = slice(to, to + size)
        self._value[part], self._known[part] = bits.value + bytes(padding), bits.known + b"\xff" * padding
        self._about[part] = [bits.about] * size

    def _bits(self, at: int, size: int) -> Bits:
        return Bits(bytes(self._value[at : at + size]), bytes(self._known[at : at + size]))

    def _get(self, compare: Compare) -> Bits:
        return self._bits(compare.at, len(compare.value))

    def _mask(self, it: Masked) -> None:
        for n, (mask, xor) in enumerate(zip(it.mask, it.xor, strict=True)):
            self._value[it.to + n] = self._value[it.at + n] & mask ^ xor
            self._known[it.to + n] = self._known[it.at + n] | ~mask & 0xFF
            self._about[it.to + n] = self._about[it.at + n]

    def _swap(self, it: Swapped) -> None:
        if sys.byteorder == "big":
            return
        for start in range(0, it.size, it.unit):
            here, there = (
                slice(it.at + start, it.at + start + it.unit),
                slice(it.to + start, it.to + start + it.unit),
            )
            for row in (self._value, self._known):
                row[there] = row[here][::-1]
            self._about[there] = self._about[here][::-1]

    def _judged(self, at: int, size: int, truth: Truth) -> ExpressionResult:
        """With what it depends on."""
        return ExpressionResult(truth, self._open(at, size) if truth is Truth.MAYBE else _NOTHING)

    def _open(self, at: int, size: int) -> frozenset[str]:
        return frozenset(self._about[n] for n in range(at, at + size) if self._known[n] != 0xFF)

    def _member(self, member: Member, elements: ElementSet | None) -> Iterator[ExpressionResult]:
        if elements is None or elements.elements is None:
            yield ExpressionResult(Truth.MAYBE, frozenset({"other"}))
            return
        size = len(elements.elements[0].first) if elements.elements else 0
        bits, open = self._bits(member.at, size), self._open(member.at, size)
        matches = [
            (each, t)
            for each in elements.elements
            if (t := _inside(bits, each, elements.parts)) is not Truth.NO
        ]
        best = max([Truth.NO, *(truth for _, truth in matches)])
        if member.to is not None:
            self._put(member.to, Bits.unknown(16))
        if any(each.consequence for each in elements.elements):
            for each, truth in (
                matches if best is Truth.MAYBE else [pair for pair in matches if pair[1] is best][:1]
            ):
                yield ExpressionResult(truth, open, each.consequence)
            yield ExpressionResult(Truth.NO)  # what is in the map has left the rule, what is not has too
            return
        found = Truth(2 - best) if member.outside else Truth(best)
        yield ExpressionResult(found, open if found is Truth.MAYBE else _NOTHING)


def _compared(bits: Bits, compare: Compare) -> Truth:
    if compare.operator in ("==", "!="):
        differs = any((v ^ w) & k for v, k, w in zip(bits.value, bits.known, compare.value, strict=True))
        equal = _judge(all(k == 0xFF for k in bits.known), differs)
        return equal if compare.operator == "==" else Truth(2 - equal)
    low, high, value = *_span(bits), int.from_bytes(compare.value)
    below, above = {
        "<": (high < value, low >= value),
        "<=": (high <= value, low > value),
        ">": (low > value, high <= value),
        ">=": (low >= value, high < value),
    }[compare.operator]
    return _judge(below, above)


def _judge(certain: bool, impossible: bool) -> Truth:
    if impossible:
        return Truth.NO
    return Truth.YES if certain else Truth.MAYBE


def _span(bits: Bits) -> tuple[int, int]:
    """The smallest and the largest number that it may be."""
    known = int.from_bytes(bits.known)
    low = int.from_bytes(bits.value) & known
    return low, low | ((1 << 8 * len(bits.known)) - 1) & ~known


def _within(bits: Bits, first: bytes, last: bytes) -> Truth:
    low, high = _span(bits)
    if high < int.from_bytes(first) or low > int.from_bytes(last):
        return Truth.NO
    return Truth.YES if int.from_bytes(first) <= low and high <= int.from_bytes(last) else Truth.MAYBE


def _inside(bits: Bits, element: SetInterval, parts: tuple[int, ...]) -> Truth:
    """Part by part, each on a boundary of four bytes."""
    truth, at = Truth.YES, 0
    for size in parts or (len(element.first),):
        part = slice(at, at + size)
        piece = Bits(bits.value[part], bits.known[part])
        exact = element.first[part] == element.last[part]
        one = (
            _compared(piece, Compare(0, "==", element.first[part]))
            if exact
            else _within(piece, element.first[part], element.last[part])
        )
        truth, at = min(truth, one), at + -(-size // 4) * 4
    return truth
