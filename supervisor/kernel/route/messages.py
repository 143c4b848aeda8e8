"""Routes and policy rules as rtnetlink messages, packed and read by hand, hundreds in one datagram.

    Change -> pack() -> Message -> Rtnetlink.change() -> what the kernel says to each of them
    Rtnetlink.dump() -> body -> read_route(), read_rule()

pyroute2's classes take thirty times as long for a route, which with ten thousand of them is seconds in which
the loop stands still.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from pyroute2 import NetlinkError

from supervisor.core.network.layout import Change, Op, Route
from supervisor.core.network.rules import Rule
from supervisor.kernel.netlink.codec import attribute, attributes
from supervisor.kernel.netlink.socket import ACK, CREATE, DUMP, EXCL, REPLACE, Exchange, NetlinkRequest

PROTOCOL = 173  # of all our routes and rules
CHUNK = 250  # messages in one datagram: about 2 ms of the kernel's time, and its answers fit any buffer
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_VERSION = {family: version for version, family in FAMILY.items()}
_NEW_ROUTE, _DELETE_ROUTE, _GET_ROUTE, _NEW_RULE, _DELETE_RULE, _GET_RULE = 24, 25, 26, 32, 33, 34
_ROUTE = _RULE = struct.Struct("=BBBBBBBBI")  # struct rtmsg and struct fib_rule_hdr
_NUMBER = struct.Struct("=HHI")  # an attribute that is a number
_DST, _OIF, _PRIORITY, _TABLE = 1, 4, 6, 15  # of routes
_DEVICE, _TARGET, _RULE_PRIORITY, _MARK, _RULE_TABLE, _MASK, _RULE_PROTOCOL = (
    3,
    4,
    6,
    10,
    15,
    16,
    21,
)  # of rules
# A kind without a name keeps its number.
_KINDS = {1: "unicast", 2: "local", 6: "blackhole", 7: "unreachable", 8: "prohibit", 9: "throw"}
_NUMBERS = {name: number for number, name in _KINDS.items()}
_ACTIONS = {1: "lookup", 2: "goto", 3: "nop"}
_ACTION_NUMBERS = {name: number for number, name in _ACTIONS.items()}
_SCOPES = {"unicast": 253, "local": 254}  # as `ip` gives them: link, host
_ANY_SCOPE = 255  # RT_SCOPE_NOWHERE: a removal that does not look at the scope
_BUFFER = 1 << 20  # bytes: the answers to CHUNK messages


class RawRoute(NamedTuple):
    """A route as the kernel gives it: the device is a number."""

    route: Route  # without a device
    device: int  # its index; 0: none


# --- messages
# ----------------------------------------------------------------------------------------------------------


def pack(change: Change, index: int = 0, take_place: bool = False) -> NetlinkRequest:
    """The message for a change of a route (into the device with this index, if any) or of a rule."""
    add = change.op is Op.ADD
    if isinstance(change.item, Route):
        flags = CREATE | (REPLACE if take_place else EXCL) if add else 0
        return NetlinkRequest(
            _NEW_ROUTE if add else _DELETE_ROUTE, flags, _pack_route(change.item, index, add)
        )
    assert isinstance(change.item, Rule)
    return NetlinkRequest(
        _NEW_RULE if add else _DELETE_RULE, CREATE | EXCL if add else 0, _pack_rule(change.item)
    )


def _pack_route(route: Route, index: int, add: bool) -> bytes:
    network, kind = route.network, _NUMBERS.get(route.kind) or int(route.kind)
    scope = _SCOPES.get(route.kind, 0) if add else _ANY_SCOPE
    body = _ROUTE.pack(FAMILY[network.version], network.prefixlen, 0, 0, 0, PROTOCOL, scope, kind, 0)
    if network.prefixlen:
        address = network.network_address.packed
        body += struct.pack("=HH", 4 + len(address), _DST) + address
    body += _NUMBER.pack(8, _PRIORITY, route.metric) + _NUMBER.pack(8, _TABLE, route.table)
    return body + _NUMBER.pack(8, _OIF, index) if index else body


def _pack_rule(rule: Rule) -> bytes:
    body = _RULE.pack(
        FAMILY[rule.version], 0, 0, 0, 0, 0, 0, _ACTION_NUMBERS.get(rule.kind) or int(rule.kind), 0
    )
    body += _NUMBER.pack(8, _RULE_PRIORITY, rule.priority)
    numbers = ((_RULE_TABLE, rule.table), (_MARK, rule.mark), (_MASK, rule.mask), (_TARGET, rule.target))
    body += b"".join(_NUMBER.pack(8, kind, number) for kind, number in numbers if number)
    if rule.device is not None:
        body += attribute(_DEVICE, rule.device.encode() + b"\x00")
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
        table = _native(found[_TABLE])
    make = IPv4Network if family == socket.AF_INET else IPv6Network
    network = make((int.from_bytes(found.get(_DST, b""), "big"), length))
    route = Route(network, table, _native(found.get(_PRIORITY, b"")), _KINDS.get(kind, str(kind)))
    return RawRoute(route, _native(found.get(_OIF, b"")))


def read_rule(body: bytes) -> Rule | None:
    """The rule, if it is ours."""
    family, _, _, _, table, _, _, action, _ = _RULE.unpack_from(body)
    found = dict(attributes(body[_RULE.size :]))
    if found.get(_RULE_PROTOCOL) != bytes([PROTOCOL]) or family not in _VERSION:
        return None
    mark, priority, mask, target = (
        _native(found.get(kind, b"")) for kind in (_MARK, _RULE_PRIORITY, _MASK, _TARGET)
    )
    table = _native(found[_RULE_TABLE]) if _RULE_TABLE in found else table
    device = found[_DEVICE].rstrip(b"\x00").decode(errors="replace") if _DEVICE in found else None
    return Rule(
        _VERSION[family], mark, table, priority, mask, _ACTIONS.get(action, str(action)), target, device
    )


def _native(data: bytes) -> int:
    return int.from_bytes(data, sys.byteorder)


# --- the socket
# ----------------------------------------------------------------------------------------------------------


class Rtnetlink(Exchange):
    """A socket to the kernel's routing."""

    def __init__(self) -> None:
        super().__init__(socket.NETLINK_ROUTE, _BUFFER)

    async def change(self, messages: Sequence[NetlinkRequest]) -> list[NetlinkError | None]:
        """Carry out at most CHUNK messages; what the kernel says to each, None where it is done.

        The kernel takes them in order and always tells a failure; so it is enough that it confirms the last.
        """
        return await self.talk(
            [*messages[:-1], messages[-1]._replace(flags=messages[-1].flags | ACK)], [len(messages) - 1]
        )
