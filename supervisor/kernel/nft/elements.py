"""Elements of nftables sets and maps, packed by hand: pyroute2's classes take thirty times as long, and a
tunnel going up waits for this.

In a plain interval set an interval is two elements, its first address and, flagged, the one after its last;
the end of the address space needs no second one. In a concatenation with intervals it is one element with a
lowest and a highest key.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping

from common.netlink import NESTED, aligned, attribute, attributes
from supervisor.core.network.intervals import Interval, Range
from supervisor.core.network.layout import Element, Part
from supervisor.kernel.nft.sets import ADDRESS, PORT, PROTOCOL, NftType, Set

_LIST_ELEMENT, _KEY, _DATA, _FLAGS, _TIMEOUT, _EXPRESSION, _KEY_END = 1, 1, 2, 3, 4, 7, 10
_VALUE = 1  # NFTA_DATA_VALUE
_EXPRESSION_DATA, _BYTES, _PACKETS = 2, 1, 2  # NFTA_EXPR_DATA, NFTA_COUNTER_BYTES, NFTA_COUNTER_PACKETS
_LENGTH, _MARK, _COUNTER = struct.Struct("=H"), struct.Struct("=I"), struct.Struct(">Q4xQ")
_TYPE = 0x3FFF
_PROTOCOLS = ("tcp", 6), ("udp", 17)
_INTERVAL_END = 1


def pack(described: Set, elements: Iterable[Element]) -> list[bytes]:
    """The list attributes for these elements of one set."""
    if described.interval and len(described.key) == 1:
        return list(_pack_intervals(described, elements))
    return [packed for element in elements for packed in _pack(described, element)]


def pack_for(described: Set, ends: Mapping[int, int]) -> list[bytes]:
    """The list attributes for elements that end by themselves: numbers, each with its milliseconds."""
    return [
        _list_element(
            _nested_key(_KEY, _part(described.key[0], number)),
            attribute(_TIMEOUT, milliseconds.to_bytes(8, "big")),
        )
        for number, milliseconds in ends.items()
    ]


def pack_lasting(described: Set, ends: Mapping[Element, int]) -> list[bytes]:
    """The list attributes for elements that end by themselves, each with its milliseconds; none that is a
    plain interval.
    """
    return [
        packed
        for element, milliseconds in ends.items()
        for packed in _pack(described, element, attribute(_TIMEOUT, milliseconds.to_bytes(8, "big")))
    ]


def _pack_intervals(described: Set, elements: Iterable[Element]) -> Iterator[bytes]:
    """There are ten thousands of these; only the numbers in them differ."""
    size = described.key[0].length
    start_head, start_neck = _around_numbers(described, described.value is not None)
    end_head = _list_element(
        attribute(_FLAGS, struct.pack(">I", _INTERVAL_END)), _nested_key(_KEY, bytes(size))
    )[:-size]
    values: dict[tuple[Part, ...], bytes] = {(): b""}
    for element in elements:
        interval, value = _as_interval(element.key[0]), element.value
        if value not in values:
            values[value] = aligned(_pack_value(described, element))
        yield start_head + interval.first.to_bytes(size, "big") + start_neck + values[value]
        if interval.last + 1 < 1 << 8 * size:
            yield end_head + (interval.last + 1).to_bytes(size, "big")


def _around_numbers(described: Set, valued: bool) -> tuple[bytes, bytes]:
    """What stands before the key and what between it and the value, in an element that starts an interval."""
    size = described.key[0].length
    key = _nested_key(_KEY, bytes(size))
    if not valued:
        return _list_element(key)[:-size], b""
    assert described.value is not None
    data = attribute(_DATA | NESTED, attribute(_VALUE, bytes(described.value.length)))
    whole = _list_element(key, data)
    return whole[: 4 + len(key) - size], data[: -len(aligned(bytes(described.value.length)))]


def unpack(described: Set, data: Iterable[bytes]) -> Iterator[Element]:
    """The elements in the element lists that the kernel gave for one set."""
    raw = [dict(attributes(body)) for part in data for _, body in attributes(part)]
    if described.interval and len(described.key) == 1:
        yield from _intervals(described, raw)
        return
    for entry in raw:
        yield Element(described.name, _key_parts(described, entry), _value(described, entry))


def counted(described: Set, data: Iterable[bytes]) -> Iterator[tuple[Element, int, int]]:
    """The elements of a set with counters, and the packets and bytes of each, from the element lists that
    the kernel gave.
    """
    for part in data:
        for _, body in attributes(part):
            entry = dict(attributes(body))
            counter = dict(attributes(dict(attributes(entry[_EXPRESSION]))[_EXPRESSION_DATA]))
            packets, octets = (int.from_bytes(counter[kind], "big") for kind in (_PACKETS, _BYTES))
            yield Element(described.name, _key_parts(described, entry)), packets, octets


def counted_marks(described: Set, data: Iterable[bytes]) -> Iterator[tuple[int, int, int]]:
    """`counted` for a set of marks: mark, packets and bytes. All elements look alike, so the first one
    says where everything stands.
    """
    for part in filter(None, data):
        (size,) = _LENGTH.unpack_from(part)
        key, counter = _place(part, 0, _KEY, _VALUE), _place(part, 0, _EXPRESSION, _EXPRESSION_DATA, _BYTES)
        if len(part) % size or _place(part, 0, _EXPRESSION, _EXPRESSION_DATA, _PACKETS) - counter != 12:
            yield from (
                (_mark(element), packets, octets) for element, packets, octets in counted(described, [part])
            )
            continue
        for at in range(0, len(part), size):
            octets, packets = _COUNTER.unpack_from(part, at + counter)
            yield _MARK.unpack_from(part, at + key)[0], packets, octets


def _mark(element: Element) -> int:
    (mark,) = element.key
    assert isinstance(mark, int)
    return mark


def _place(data: bytes, at: int, *path: int) -> int:
    """Where the data of an attribute within attributes stand, in the one that begins here; KeyError."""
    for wanted in path:
        end, at = at + _LENGTH.unpack_from(data, at)[0], at + 4
        while at < end and _LENGTH.unpack_from(data, at + 2)[0] & _TYPE != wanted:
            at += -(-_LENGTH.unpack_from(data, at)[0] // 4) * 4
        if at >= end:
            raise KeyError(wanted)
    return at + 4


def _pack(described: Set, element: Element, more: bytes = b"") -> Iterator[bytes]:
    data = (
        attribute(_DATA | NESTED, attribute(_VALUE, _pack_value(described, element)))
        if element.value
        else b""
    )
    if not described.interval:
        yield _list_element(_nested_key(_KEY, _concatenated(described.key, element.key)), data, more)
    else:
        low = _concatenated(described.key, element.key, interval=True)
        high = _concatenated(described.key, element.key, interval=True, end=True)
        yield _list_element(_nested_key(_KEY, low), data, _nested_key(_KEY_END, high), more)


def _pack_value(described: Set, element: Element) -> bytes:
    assert described.value is not None
    if described.value_interval:
        interval, size = _as_interval(element.value[0]), described.value.length
        return interval.first.to_bytes(size, "big") + interval.last.to_bytes(size, "big")
    return _part(described.value, element.value[0])


def _concatenated(
    kinds: tuple[NftType, ...], parts: tuple[Part, ...], interval: bool = False, end: bool = False
) -> bytes:
    """Each part takes whole words. Where keys are ordered, numbers are in network order."""
    packed = [_part(kind, part, interval, end) for kind, part in zip(kinds, parts, strict=True)]
    return packed[0] if len(packed) == 1 else b"".join(aligned(part) for part in packed)


def _part(kind: NftType, part: Part, interval: bool = False, end: bool = False) -> bytes:
    match part:
        case str() if kind == PROTOCOL:
            return bytes([dict(_PROTOCOLS)[part]])
        case str():
            return part.encode().ljust(kind.length, b"\x00")
        case Interval() | Range():
            return (part.last if end else part.first).to_bytes(kind.length, "big")
        case int():
            return part.to_bytes(
                kind.length, "little" if kind.host_order and not interval and _LITTLE else "big"
            )


def _intervals(described: Set, raw: list[dict[int, bytes]]) -> Iterator[Element]:
    """Join starts with ends; the kernel lists them in any order. An address may be the end of one and the
    start of the next.
    """
    starts = {}
    ends = []
    for entry in raw:
        address = int.from_bytes(_unvalue(entry[_KEY]), "big")
        if entry.get(_FLAGS, b"\x00")[-1] & _INTERVAL_END:
            ends.append(address)
        else:
            starts[address] = entry
    ends.sort()
    version, limit = _version(described.key[0]), 1 << 8 * described.key[0].length
    position = 0
    for start in sorted(starts):
        while position < len(ends) and ends[position] <= start:
            position += 1
        last = (ends[position] if position < len(ends) else limit) - 1
        yield Element(described.name, (Interval(version, start, last),), _value(described, starts[start]))


def _key_parts(described: Set, entry: dict[int, bytes]) -> tuple[Part, ...]:
    key = _unvalue(entry[_KEY])
    high = _unvalue(entry[_KEY_END]) if _KEY_END in entry else key
    parts: list[Part] = []
    at = 0
    for kind in described.key:
        parts.append(
            _unpart(kind, key[at : at + kind.length], high[at : at + kind.length], described.interval)
        )
        at += -(-kind.length // 4) * 4
    return tuple(parts)


def _value(described: Set, entry: dict[int, bytes]) -> tuple[Part, ...]:
    if described.value is None:
        return ()
    data, size = _unvalue(entry[_DATA]), described.value.length
    return (_unpart(described.value, data[:size], data[size : size * 2] or data[:size]),)


def _unpart(kind: NftType, data: bytes, high: bytes, interval: bool = False) -> Part:
    if kind in ADDRESS.values():
        return Interval(_version(kind), int.from_bytes(data, "big"), int.from_bytes(high, "big"))
    if kind == PROTOCOL:
        return next((name for name, number in _PROTOCOLS if number == data[0]), data[0])
    if kind == PORT and interval:
        return Range(int.from_bytes(data, "big"), int.from_bytes(high, "big"))
    if kind.length == 16:
        return data.rstrip(b"\x00").decode(errors="replace")
    return int.from_bytes(data, "little" if kind.host_order and not interval and _LITTLE else "big")


_LITTLE = struct.pack("=H", 1) == b"\x01\x00"


def _version(kind: NftType) -> int:
    return 4 if kind.length == 4 else 6


def _as_interval(part: Part) -> Interval:
    assert isinstance(part, Interval)
    return part


def _nested_key(kind: int, key: bytes) -> bytes:
    return attribute(kind | NESTED, attribute(_VALUE, key))


def _list_element(*attributes: bytes) -> bytes:
    return attribute(_LIST_ELEMENT | NESTED, b"".join(attributes))


def _unvalue(data: bytes) -> bytes:
    return next(body for kind, body in attributes(data) if kind == _VALUE)
