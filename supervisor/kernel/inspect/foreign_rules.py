"""Single looks at what other programs have put into the kernel (rtnetlink(7), sock_diag(7)): policy rules,
routes, listening sockets; and a trial transaction of nftables, of which nothing lasts.
"""

from __future__ import annotations

import errno
import itertools
import secrets
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from types import MappingProxyType

from common.netlink import (
    ACK,
    CREATE,
    DUMP,
    ERROR,
    NETFILTER,
    SOCK_DIAG,
    STRICT_CHECK,
    NetlinkSocket,
    attribute,
    attributes,
    native,
    refusal,
    text,
    text_attribute,
)
from common.rtnetlink import FAMILY
from supervisor.core.preflight.facts import PolicyRule, TableRoute
from supervisor.kernel.nft.expressions import Expression, expression
from supervisor.kernel.nft.messages import (
    CHAIN_NAME,
    CHAIN_TABLE,
    DELETE_TABLE,
    NEW_CHAIN,
    NEW_RULE,
    NEW_TABLE,
    OWNER,
    PERSIST,
    RULE_CHAIN,
    RULE_TABLE,
    TABLE_FLAGS,
    TABLE_NAME,
    expressions,
    nft_request,
    transaction,
)
from supervisor.kernel.route.messages import PROTOCOL
from tunnels.networks import IPAddress, IPNetwork

MOST_ROUTES = 20_000  # that are read of a table
_GET_ROUTES, _GET_POLICY_RULES, _POLICY_RULE, _ROUTE_HEADER = 26, 34, 12, 12
_GET_NETCONF, _NETCONF_HEADER = 82, 4
_PROTOCOL, _ROUTE_TABLE = 21, 15
# sock_diag(7): SOCK_DIAG_BY_FAMILY, TCP_LISTEN, and the offset of the user in struct inet_diag_msg
_BY_FAMILY, _LISTEN, _USER = 20, 10, 64
_KINDS: Mapping[int, str] = MappingProxyType(
    {
        1: "unicast",
        2: "local",
        3: "broadcast",
        4: "anycast",
        5: "multicast",
        6: "blackhole",
        7: "unreachable",
        8: "prohibit",
        9: "throw",
    }
)
_NO_RIGHT = (errno.EPERM, errno.EACCES)
_ANY = b"\xff" * 4


# What not every kernel is built with: `socket transparent`, and `ct count 1`.
NEEDED: Mapping[str, Expression] = MappingProxyType(
    {"nft_socket": expression("socket", key=0, dreg=1), "nft_connlimit": expression("connlimit", count=1)}
)


def owner_persist() -> bool:
    """Can a table have an owner and outlive it? Tried with a table that is made and removed in one
    transaction. OSError as `filters`.
    """
    return _possible(attribute(TABLE_FLAGS, struct.pack(">I", OWNER | PERSIST)))


def missing_modules(needed: Mapping[str, Expression] = NEEDED) -> tuple[str, ...]:
    """The kernel modules that our rules need and that cannot be had, each tried in a table that does not
    last. OSError as `filters`.
    """
    return tuple(module for module, needs in needed.items() if not _possible(b"", needs))


def _possible(flags: bytes, in_rule: Expression | None = None) -> bool:
    """Does the kernel take a table with these flags, with a rule of this expression; it is removed in the
    same transaction.
    """
    table, chain = f"facilitator-trial-{secrets.token_hex(4)}", "trial"
    requests = [nft_request(NEW_TABLE, CREATE | ACK, text_attribute(TABLE_NAME, table) + flags)]
    if in_rule is not None:
        names = text_attribute(CHAIN_TABLE, table) + text_attribute(CHAIN_NAME, chain)
        requests.append(nft_request(NEW_CHAIN, CREATE | ACK, names))
        names = text_attribute(RULE_TABLE, table) + text_attribute(RULE_CHAIN, chain)
        requests.append(nft_request(NEW_RULE, CREATE | ACK, names + expressions(in_rule)))
    requests.append(nft_request(DELETE_TABLE, 0, text_attribute(TABLE_NAME, table)))
    with NetlinkSocket(NETFILTER) as netlink:
        first = netlink.send(*transaction(requests))
        while True:
            for message in netlink.receive():
                error = refusal(message) if message.kind == ERROR else None
                if error is not None and error.errno in _NO_RIGHT:
                    raise PermissionError(error.errno, error.strerror)
                if error is not None:
                    return False
                if message.number == first + len(requests):
                    return True


def policy_rules() -> tuple[PolicyRule, ...]:
    """The policy rules of others, of IPv4 and IPv6. Needs no privilege."""
    found = []
    with NetlinkSocket() as netlink:
        for version, family in FAMILY.items():
            for body in netlink.answers(_GET_POLICY_RULES, DUMP, struct.pack("=12B", family, *bytes(11))):
                if body[0] == family and not _is_ours(body):
                    found.append(_policy_rule(version, body))
    return tuple(found)


def _is_ours(body: bytes) -> bool:
    """The policy rule is one of ours; the kernel says so among its first attributes."""
    found = (data for kind, data in attributes(body[_POLICY_RULE:]) if kind == _PROTOCOL)
    return next(found, b"")[:1] == bytes([PROTOCOL])


def table_routes(tables: Iterable[tuple[int, int]]) -> tuple[TableRoute, ...]:
    """The routes of these tables, each with its IP version; of a large one the first. Needs no privilege."""
    return tuple(
        route for version, table in tables for route in itertools.islice(_table(version, table), MOST_ROUTES)
    )


def _table(version: int, table: int) -> Iterator[TableRoute]:
    request = struct.pack("=BBBBBBBBI", FAMILY[version], *bytes(8)) + attribute(
        _ROUTE_TABLE, struct.pack("=I", table)
    )
    try:
        with NetlinkSocket(options=(STRICT_CHECK,)) as netlink:
            for body in netlink.answers(_GET_ROUTES, DUMP, request):
                values = dict(attributes(body[_ROUTE_HEADER:]))
                if body[0] == FAMILY[version] and native(values.get(_ROUTE_TABLE)) == table:
                    yield TableRoute(
                        table,
                        _network(version, values.get(1), body[1]),
                        _KINDS.get(body[7], "other"),
                        _device(values.get(4)),
                        body[5],
                    )
    except FileNotFoundError:  # there is no such table
        return


def outgoing(address: IPAddress) -> str | None:
    """The device by which a packet of this host would leave for the address: by which packets from there
    come in, too.
    """
    size = address.max_prefixlen
    request = struct.pack("=BBBBBBBBI", FAMILY[address.version], size, *bytes(7)) + attribute(
        1, address.packed
    )
    try:
        with NetlinkSocket() as netlink:
            (body,) = netlink.request(_GET_ROUTES, 0, request)
    except OSError:  # nowhere
        return None
    return _device(dict(attributes(body[_ROUTE_HEADER:])).get(4)) or None


def not_forwarding() -> frozenset[str]:
    """The devices that pass on no IPv4 packets that come in by them."""
    with NetlinkSocket() as netlink:
        answers = netlink.answers(_GET_NETCONF, DUMP, struct.pack("=B3x", socket.AF_INET))
        found = [dict(attributes(body[_NETCONF_HEADER:])) for body in answers]
    return frozenset(
        _device(each[1]) for each in found if 1 in each and 2 in each and not native(each[2])
    ) - {""}


def listening() -> tuple[tuple[int, int, int], ...]:
    """Port, inode and user of everything that takes TCP connections. OSError: the kernel cannot tell that
    way.
    """
    found = []
    with NetlinkSocket(SOCK_DIAG) as netlink:
        for family in FAMILY.values():
            request = struct.pack("=BBBxI48x", family, socket.IPPROTO_TCP, 0, 1 << _LISTEN)
            for body in netlink.answers(_BY_FAMILY, DUMP, request):
                user, inode = struct.unpack_from("=II", body, _USER)
                found.append((int.from_bytes(body[4:6]), int(inode), int(user)))
    return tuple(found)


def indexes() -> dict[str, int]:
    """The kernel's numbers of all devices."""
    return {name: number for number, name in socket.if_nameindex()}


# --- understanding

_SELECTORS: Mapping[int, str] = MappingProxyType(
    {
        1: "to",
        2: "from",
        3: "iif",
        12: "tun_id",
        17: "oif",
        19: "l3mdev",
        20: "uidrange",
        22: "ipproto",
        23: "sport",
        24: "dport",
    }
)
_NARROW = frozenset({12, 17, 19, 20, 22, 23, 24})
_ACTIONS: Mapping[int, str] = MappingProxyType(
    {1: "lookup", 2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
)
_TABLES: Mapping[int, str] = MappingProxyType({253: "default", 254: "main", 255: "local"})
_NOT_SET = 0xFFFF_FFFF
_ADDRESS_BYTES = {4: 4, 6: 16}


def _policy_rule(version: int, body: bytes) -> PolicyRule:
    _, to_length, from_length, tos, table, _, _, action, flags = struct.unpack_from("=BBBBBBBBI", body)
    values = dict(attributes(body[_POLICY_RULE:]))
    mark = native(values.get(10))
    mask = native(values[16]) if 16 in values else _NOT_SET * bool(mark)
    lengths = {1: to_length, 2: from_length}
    selectors = [
        _selector(kind, word, values[kind], lengths.get(kind))
        for kind, word in _SELECTORS.items()
        if kind in values
    ]
    number = native(values[15]) if 15 in values else table
    what, suppressed = (
        _ACTIONS.get(action, f"action {action}"),
        native(values.get(14, _ANY)) if 14 in values else _NOT_SET,
    )
    onward = native(values.get(4))
    where = {"lookup": f" {_TABLES.get(number, number)}", "goto": f" {onward}"}.get(what, "")
    but = f" suppress_prefixlength {suppressed}" if suppressed != _NOT_SET else ""
    marked = [f"fwmark {mark:#x}/{mask:#x}"] if mask else []
    narrow = bool(_NARROW & values.keys()) or tos != 0 or native(values.get(13, _ANY)) != _NOT_SET
    return PolicyRule(
        version,
        native(values.get(6)),
        " ".join(["not"] * bool(flags & 2) + selectors + marked + [what + where + but]),
        mark,
        mask,
        narrow,
        bool(flags & 2),
        source=_network(version, values[2], from_length) if 2 in values else None,
        target=_network(version, values[1], to_length) if 1 in values else None,
        arrives=text(values.get(3, b"")),
        action=what,
        table=number,
        onward=onward,
        suppresses=-1 if suppressed == _NOT_SET else suppressed,
    )


def _network(version: int, data: bytes | None, length: int) -> IPNetwork:
    address = ip_address(data or bytes(_ADDRESS_BYTES[version]))
    return ip_network(f"{address}/{length}", strict=False)


def _device(data: bytes | None) -> str:
    try:
        return socket.if_indextoname(native(data)) if data is not None else ""
    except OSError:
        return ""


def _selector(kind: int, word: str, data: bytes, length: int | None) -> str:
    if kind in (1, 2):
        return f"{word} {ip_address(data)}/{length}"
    return f"{word} {text(data)}" if kind in (3, 17) else word
