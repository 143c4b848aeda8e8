"""Reads the nftables tables of other programs, iptables-nft's among them, as `core.netfilter` understands
them (linux/netfilter/nf_tables.h).

Only tables that filter are read (none of NAT), and of their sets only those that a rule asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from common.netlink import DUMP, NETFILTER, NetlinkSocket, attributes, text, text_attribute
from supervisor.core.netfilter.values import (
    Consequence,
    ElementSet,
    Expression,
    FilterChain,
    FilterRule,
    Firewall,
    Member,
    SetInterval,
)
from supervisor.kernel.nft.messages import (
    GET_CHAIN,
    GET_ELEMENTS,
    GET_GENERATION,
    GET_RULE,
    GET_SET,
    GET_TABLE,
    HEADER_BYTES,
    nft_request,
)
from supervisor.kernel.nft.retransmission_table import RETRANSMISSION_TABLE
from supervisor.kernel.nft.rule_reader import consequence, decoded
from supervisor.kernel.nft.ruleset import TABLE

_FAMILIES: Mapping[int, str] = MappingProxyType({1: "inet", 2: "ip", 5: "netdev", 10: "ip6"})
_NUMBERS: Mapping[str, int] = MappingProxyType({name: number for number, name in _FAMILIES.items()})
_OURS = frozenset({("inet", TABLE), ("ip", RETRANSMISSION_TABLE), ("ip6", RETRANSMISSION_TABLE)})
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting", "ingress")
_FILTERING = ("filter", "route")
_INTERVAL, _IS_END, _CATCH_ALL = 4, 1, 2  # flags of a set, of an element
_DROP = 0  # as policy
_COMMENT = 0  # in a rule's user data
MOST_ELEMENTS = 4096  # that are read of a set


@dataclass(slots=True)
class ForeignTableReader:
    """Reads again only what has changed since the last time."""

    _generation: bytes = b""
    _known: Firewall = field(default_factory=Firewall)

    def read(self) -> Firewall:
        """The tables of others. OSError: PermissionError without CAP_NET_ADMIN, or no nftables in the
        kernel.
        """
        with NetlinkSocket(NETFILTER) as netlink:
            (generation,) = netlink.request(*nft_request(GET_GENERATION, 0, family=0))
        if generation != self._generation:
            self._known, self._generation = _read(), generation
        return self._known


def ours_exists() -> bool:
    """Is there a table of ours. OSError as `ForeignTableReader.read`."""
    with NetlinkSocket(NETFILTER) as netlink:
        return ("inet", TABLE) in _tables(netlink)


def _tables(netlink: NetlinkSocket) -> frozenset[tuple[str, str]]:
    return frozenset((family, text(values[1])) for family, values in _objects(netlink, GET_TABLE))


def _read() -> Firewall:
    with NetlinkSocket(NETFILTER) as netlink:
        if _tables(netlink) <= _OURS:
            return Firewall()
        chains = [_chain(family, values) for family, values in _objects(netlink, GET_CHAIN)]
        tables = dict.fromkeys((chain.family, chain.table) for chain in chains if chain.hook)
        rules: dict[tuple[str, str, str], list[FilterRule]] = {}
        for family, table in tables:
            for _, values in _objects(netlink, GET_RULE, family, text_attribute(1, table)):
                rules.setdefault((family, table, text(values[2])), []).append(_rule(values))
        known = [
            replace(chain, rules=tuple(rules.get((chain.family, chain.table, chain.name), ())))
            for chain in chains
            if (chain.family, chain.table) in tables
        ]
        sets = {place: described for table in tables for place, described in _sets(netlink, *table)}
    asked = {
        (c.family, c.table, each.set)
        for c in known
        for rule in c.rules
        for each in rule.expressions
        if isinstance(each, Member)
    }
    return Firewall(
        tuple(known), {place: _elements(*place, *sets[place]) for place in sorted(asked & sets.keys())}
    )


def _objects(
    netlink: NetlinkSocket, kind: int, family: str = "", filters: bytes = b""
) -> Iterator[tuple[str, dict[int, bytes]]]:
    """Family and attributes of every object, of the families that IP packets meet."""
    request = nft_request(kind, DUMP, filters, _NUMBERS.get(family, 0))
    for body in netlink.answers(*request):
        if body[0] in _FAMILIES:
            yield _FAMILIES[body[0]], dict(attributes(body[HEADER_BYTES:]))


# --- chains and rules
# ----------------------------------------------------------------------------------------------------------


def _chain(family: str, values: Mapping[int, bytes]) -> FilterChain:
    """Without its rules. A base chain that does not filter, or is ours, has no hook here."""
    table, name = text(values[1]), text(values[3])
    if 4 not in values or text(values.get(7, b"")) not in _FILTERING or (family, table) in _OURS:
        return FilterChain(family, table, name)
    hook = dict(attributes(values[4]))
    number = _number(hook.get(1))
    names = _HOOKS[5:] if family == "netdev" else _HOOKS
    devices = [hook[3]] if 3 in hook else [device for _, device in attributes(hook.get(4, b""))]
    return FilterChain(
        family,
        table,
        name,
        (),
        names[number] if number < len(names) else "",
        _number(hook.get(2), signed=True),
        _number(values.get(5)) == _DROP and 5 in values,
        tuple(map(text, devices)),
    )


def _rule(values: Mapping[int, bytes]) -> FilterRule:
    expressions: list[Expression] = []
    comments = [_comment(values.get(7, b""))]
    for kind, expression in attributes(values.get(4, b"")):
        parts = dict(attributes(expression))
        if kind == 1:
            done, comment = decoded(text(parts.get(1, b"")), parts.get(2, b""))
            expressions += done
            comments.append(comment)
    return FilterRule(_number(values.get(3)), tuple(expressions), " ".join(filter(None, comments)))


def _comment(data: bytes) -> str:
    at = 0
    while at + 2 <= len(data):
        kind, length = data[at], data[at + 1]
        if kind == _COMMENT:
            return text(data[at + 2 : at + 2 + length])
        at += 2 + length
    return ""


# --- sets
# ----------------------------------------------------------------------------------------------------------


def _sets(
    netlink: NetlinkSocket, family: str, table: str
) -> Iterator[tuple[tuple[str, str, str], tuple[int, tuple[int, ...]]]]:
    """Flags, and sizes of the parts where it is a concatenation."""
    for _, values in _objects(netlink, GET_SET, family, text_attribute(1, table)):
        described = dict(attributes(values.get(9, b"")))
        parts = tuple(_number(dict(attributes(part)).get(1)) for _, part in attributes(described.get(2, b"")))
        yield (family, table, text(values[2])), (_number(values.get(3)), parts)


def _elements(family: str, table: str, name: str, flags: int, parts: tuple[int, ...]) -> ElementSet:
    found: list[dict[int, bytes]] = []
    filters = text_attribute(1, table) + text_attribute(2, name)
    try:
        with NetlinkSocket(NETFILTER) as netlink:  # its own, so that a large set can be left in the middle
            for _, values in _objects(netlink, GET_ELEMENTS, family, filters):
                found += [dict(attributes(element)) for _, element in attributes(values.get(3, b""))]
                if len(found) > MOST_ELEMENTS:
                    return ElementSet(None, parts)
    except FileNotFoundError:  # it is gone meanwhile: the next look will tell
        return ElementSet(None, parts)
    if any(_number(each.get(3)) & _CATCH_ALL for each in found if 3 in each):
        return ElementSet(None, parts)
    made = _intervals(found) if flags & _INTERVAL and not parts else _exact(found)
    return ElementSet(tuple(made), parts)


def _value(data: bytes) -> bytes:
    return dict(attributes(data)).get(1, b"")


def _consequence(element: Mapping[int, bytes]) -> Consequence | None:
    return consequence(element[2]) if 2 in element else None


def _exact(found: Iterable[Mapping[int, bytes]]) -> Iterator[SetInterval]:
    for each in found:
        first = _value(each[1])
        yield SetInterval(first, _value(each[10]) if 10 in each else first, _consequence(each))


def _intervals(found: Iterable[Mapping[int, bytes]]) -> Iterator[SetInterval]:
    """The kernel keeps where each interval begins, and where the first address behind it is."""
    marks = sorted(
        (_value(each[1]), 0 if _number(each.get(3)) & _IS_END and 3 in each else 1, n, each)
        for n, each in enumerate(found)
    )
    begun: tuple[bytes, Mapping[int, bytes]] | None = None
    for key, begins, _, each in marks:
        if begun is not None:
            last = (int.from_bytes(key) - 1).to_bytes(len(key))
            yield SetInterval(begun[0], last, _consequence(begun[1]))
        begun = (key, each) if begins else None
    if begun is not None:
        yield SetInterval(begun[0], b"\xff" * len(begun[0]), _consequence(begun[1]))


def _number(data: bytes | None, signed: bool = False) -> int:
    return int.from_bytes(data, "big", signed=signed) if data else 0
