"""Routes and policy rules as rtnetlink messages (rtnetlink(7), linux/rtnetlink.h, linux/fib_rules.h).

    Change -> pack() -> NetlinkRequest -> AsyncNetlink.change() -> what the kernel says to each of them
    AsyncNetlink.dump() -> body -> read_route(), read_rule()

They are packed by hand, hundreds in one datagram: pyroute2's classes take thirty times as long for a route,
which with ten thousand of them is seconds in which the loop stands still.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import NamedTuple

from common.netlink import (
    CREATE,
    DUMP,
    EXCLUSIVE,
    REPLACE,
    NetlinkRequest,
    attribute,
    attributes,
    native,
    text,
    text_attribute,
)
from common.rtnetlink import FAMILY
from supervisor.core.network.changes import Change, Op
from supervisor.core.network.layout import MAIN_TABLE, Route
from supervisor.core.network.rules import Rule
from tunnels.networks import IPAddress

PROTOCOL = 173  # of all our routes and rules
CHUNK = 250  # requests in one datagram: about 2 ms of the kernel's time, and its answers fit any buffer
_VERSION = {family: version for version, family in FAMILY.items()}
_NEW_ROUTE, _DELETE_ROUTE, _GET_ROUTE, _NEW_RULE, _DELETE_RULE, _GET_RULE = 24, 25, 26, 32, 33, 34
_ROUTE = _RULE = struct.Struct("=BBBBBBBBI")  # struct rtmsg and struct fib_rule_hdr
_NUMBER = struct.Struct("=HHI")  # an attribute that is a number
_DST, _SRC, _OIF, _PRIORITY, _TABLE = 1, 2, 4, 6, 15  # of routes: RTA_*
_RTA_IIF, _RTA_MARK, _LOOKUP_TABLE = 3, 16, 0x1000  # of a query; RTM_F_LOOKUP_TABLE
# Of rules: FRA_IIFNAME, FRA_GOTO, FRA_PRIORITY, FRA_FWMARK, FRA_TABLE, FRA_FWMASK, FRA_PROTOCOL.
_DEVICE, _TARGET, _RULE_PRIORITY, _MARK, _RULE_TABLE, _MASK, _RULE_PROTOCOL = 3, 4, 6, 10, 15, 16, 21
# A kind without a name keeps its number.
_KINDS = {1: "unicast", 2: "local", 6: "blackhole", 7: "unreachable", 8: "prohibit", 9: "throw"}
_NUMBERS = {name: number for number, name in _KINDS.items()}
_ACTIONS = {1: "lookup", 2: "goto", 3: "nop"}
_ACTION_NUMBERS = {name: number for number, name in _ACTIONS.items()}
_SCOPES = {"unicast": 253, "local": 254}  # as `ip` gives them: link, host
_UNIVERSE, _ON_LINK = 0, 4  # RT_SCOPE_UNIVERSE, of a route with a gateway; RTNH_F_ONLINK
_ANY_SCOPE = 255  # RT_SCOPE_NOWHERE: a removal that does not look at the scope
_RTA_GATEWAY, _RTA_PREFSRC, _RTA_MULTIPATH, _RTA_VIA = 5, 7, 9, 18
_NEXT_HOP = struct.Struct("=HBBi")  # struct rtnexthop


class RawRoute(NamedTuple):
    """A route as the kernel gives it: the device is a number."""

    route: Route  # without a device
    device: int  # its index; 0: none


def pack(change: Change, index: int = 0) -> NetlinkRequest:
    """The message for a change of a route (into the device with this index, if any) or of a rule."""
    add = change.op is Op.ADD
    flags = CREATE | (REPLACE if change.replaces else EXCLUSIVE)
    if isinstance(change.item, Route):
        body = _pack_route(change.item, index, add)
        return NetlinkRequest(_NEW_ROUTE, flags, body) if add else NetlinkRequest(_DELETE_ROUTE, 0, body)
    assert isinstance(change.item, Rule)
    body = _pack_rule(change.item)
    return NetlinkRequest(_NEW_RULE, flags, body) if add else NetlinkRequest(_DELETE_RULE, 0, body)


def _pack_route(route: Route, index: int, add: bool) -> bytes:
    network, kind = route.network, _NUMBERS.get(route.kind) or int(route.kind)
    onward = _UNIVERSE if route.gateway is not None else _SCOPES.get(route.kind, 0)
    scope, flags = onward if add else _ANY_SCOPE, _ON_LINK if route.gateway is not None else 0
    body = _ROUTE.pack(FAMILY[network.version], network.prefixlen, 0, 0, 0, PROTOCOL, scope, kind, flags)
    if network.prefixlen:
        body += attribute(_DST, network.network_address.packed)
    body += _NUMBER.pack(8, _PRIORITY, route.metric) + _NUMBER.pack(8, _TABLE, route.table)
    if route.gateway is not None:
        body += attribute(_RTA_GATEWAY, route.gateway.packed)
    return body + _NUMBER.pack(8, _OIF, index) if index else body


def _pack_rule(rule: Rule) -> bytes:
    body = _RULE.pack(
        FAMILY[rule.version], 0, 0, 0, 0, 0, 0, _ACTION_NUMBERS.get(rule.kind) or int(rule.kind), 0
    )
    body += _NUMBER.pack(8, _RULE_PRIORITY, rule.priority)
    numbers = ((_RULE_TABLE, rule.table), (_MARK, rule.mark), (_MASK, rule.mask), (_TARGET, rule.target))
    body += b"".join(_NUMBER.pack(8, kind, number) for kind, number in numbers if number)
    if rule.device is not None:
        body += text_attribute(_DEVICE, rule.device)
    return body + struct.pack("=HHB3x", 5, _RULE_PROTOCOL, PROTOCOL)


def route_dump(version: int) -> NetlinkRequest:
    """Asks for all routes of ours."""
    return NetlinkRequest(_GET_ROUTE, DUMP, _ROUTE.pack(FAMILY[version], 0, 0, 0, 0, PROTOCOL, 0, 0, 0))


def rule_dump(version: int) -> NetlinkRequest:
    """Asks for all rules, for the kernel does not select."""
    return NetlinkRequest(_GET_RULE, DUMP, _RULE.pack(FAMILY[version], 0, 0, 0, 0, 0, 0, 0, 0))


def read_route(body: bytes) -> RawRoute | None:
    """The route, if it is ours."""
    family, length, _, _, table, protocol, _, kind, _ = _ROUTE.unpack_from(body)
    if protocol != PROTOCOL or family not in _VERSION:
        return None
    found = dict(attributes(body[_ROUTE.size :]))
    if _TABLE in found:
        table = native(found[_TABLE])
    make = IPv4Network if family == socket.AF_INET else IPv6Network
    network = make((int.from_bytes(found.get(_DST, b""), "big"), length))
    gateway = ip_address(found[_RTA_GATEWAY]) if _RTA_GATEWAY in found else None
    route = Route(network, table, native(found.get(_PRIORITY)), _KINDS.get(kind, str(kind)), None, gateway)
    return RawRoute(route, native(found.get(_OIF)))


def read_rule(body: bytes) -> Rule | None:
    """The rule, if it is ours."""
    family, _, _, _, table, _, _, action, _ = _RULE.unpack_from(body)
    found = dict(attributes(body[_RULE.size :]))
    if found.get(_RULE_PROTOCOL) != bytes([PROTOCOL]) or family not in _VERSION:
        return None
    mark, priority, mask, target = (
        native(found.get(kind)) for kind in (_MARK, _RULE_PRIORITY, _MASK, _TARGET)
    )
    table = native(found[_RULE_TABLE]) if _RULE_TABLE in found else table
    device = text(found[_DEVICE]) if _DEVICE in found else None
    return Rule(
        _VERSION[family], mark, table, priority, mask, _ACTIONS.get(action, str(action)), target, device
    )


def next_hop_dump(version: int) -> NetlinkRequest:
    """Asks for the routes of the main table, also those of others."""
    return NetlinkRequest(_GET_ROUTE, DUMP, _ROUTE.pack(FAMILY[version], 0, 0, 0, MAIN_TABLE, 0, 0, 0, 0))


def read_next_hops(body: bytes) -> tuple[IPAddress, ...]:
    """The gateways of one route."""
    return tuple(_next_hops(dict(attributes(body[_ROUTE.size :]))))


def _next_hops(found: dict[int, bytes]) -> Iterator[IPAddress]:
    if _RTA_GATEWAY in found:
        yield ip_address(found[_RTA_GATEWAY])
    if len(via := found.get(_RTA_VIA, b"")) in (6, 18):  # struct rtvia: the family of the address comes first
        yield ip_address(via[2:])
    rest = found.get(_RTA_MULTIPATH, b"")
    while len(rest) >= _NEXT_HOP.size:
        size, *_ = _NEXT_HOP.unpack_from(rest)
        yield from _next_hops(dict(attributes(rest[_NEXT_HOP.size : size])))
        rest = rest[max(_NEXT_HOP.size, size + 3 & ~3) :]


class RouteLookup(NamedTuple):
    """Where the kernel sends a packet."""

    device: int  # index of the interface; 0: none
    gateway: IPAddress | None
    table: int
    source: IPAddress | None = None  # that this host would give a packet of its own


def route_query(
    address: IPAddress, *, mark: int = 0, source: IPAddress | None = None, arrives: int = 0
) -> NetlinkRequest:
    """Asks where a packet to the address goes; with `source` and `arrives` (index of an interface): one that
    came in there.
    """
    # IPv6 always says in which table the route was found, and refuses the flag.
    flags, bits = (_LOOKUP_TABLE if address.version == 4 else 0), address.max_prefixlen
    head = _ROUTE.pack(FAMILY[address.version], bits, bits if source is not None else 0, 0, 0, 0, 0, 0, flags)
    body = head + attribute(_DST, address.packed)
    body += attribute(_SRC, source.packed) if source is not None else b""
    numbers = ((_RTA_IIF, arrives), (_RTA_MARK, mark))
    return NetlinkRequest(
        _GET_ROUTE, 0, body + b"".join(_NUMBER.pack(8, kind, number) for kind, number in numbers if number)
    )


def read_lookup(body: bytes) -> RouteLookup:
    """The answer to `route_query`."""
    found = dict(attributes(body[_ROUTE.size :]))
    table = native(found[_TABLE]) if _TABLE in found else _ROUTE.unpack_from(body)[4]
    source = ip_address(found[_RTA_PREFSRC]) if _RTA_PREFSRC in found else None
    return RouteLookup(native(found.get(_OIF)), next(_next_hops(found), None), table, source)
