"""Looks at what other programs have put into the kernel: policy rules and routes, and one trial
transaction. Nothing of it lasts.
"""

from __future__ import annotations

import errno
import itertools
import os
import secrets
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from types import MappingProxyType

from supervisor.core.preflight.facts import PolicyRule, TableRoute
from supervisor.kernel.netlink.blocking import (
    ACK,
    CREATE,
    ERROR,
    REQUEST,
    dump,
    message,
    one,
    opened,
    received,
)
from supervisor.kernel.netlink.codec import NESTED, attribute, attributes
from supervisor.kernel.nft.table import OWNER, PERSIST
from supervisor.kernel.route.messages import FAMILY, PROTOCOL
from tunnels.settings import IPAddress, IPNetwork

MOST = 20_000  # routes that are read of a table
_NETFILTER, _NFTABLES = 12, 10 << 8
_NEW_TABLE, _DELETE_TABLE, _NEW_CHAIN, _NEW_RULE = 0, 2, 3, 6
_BEGIN, _END = 0x10, 0x11
_GET_ROUTES, _GET_POLICY_RULES, _POLICY_RULE, _ROUTE_HEADER = 26, 34, 12, 12
_GET_NETCONF, _NETCONF_HEADER = 82, 4
_PROTOCOL, _ROUTE_TABLE = 21, 15
_SOCK_DIAG, _BY_FAMILY, _LISTEN, _USER = (
    4,
    20,
    10,
    64,
)  # sock_diag(7): TCP_LISTEN, and the offset in struct inet_diag_msg
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
_REFUSALS = (errno.EPERM, errno.EACCES)
_ANY = b"\xff" * 4


def rule_of(name: bytes, *numbers: tuple[int, int]) -> bytes:
    """The expressions of a rule with this one: NFTA_RULE_EXPRESSIONS > NFTA_LIST_ELEM > NFTA_EXPR_NAME and
    _DATA.
    """
    data = b"".join(attribute(kind, struct.pack(">I", number)) for kind, number in numbers)
    return attribute(
        4 | NESTED, attribute(1 | NESTED, attribute(1, name + b"\x00") + attribute(2 | NESTED, data))
    )


# What not every kernel is built with: `socket transparent` into register 1, and `ct count 1`.
NEEDED: Mapping[str, bytes] = MappingProxyType(
    {"nft_socket": rule_of(b"socket", (1, 0), (2, 1)), "nft_connlimit": rule_of(b"connlimit", (1, 1))}
)


def owner_persist() -> bool:
    """Can a table have an owner and outlive it? Tried with a table that is made and removed in one
    transaction. OSError as `filters`.
    """
    return _possible(attribute(2, struct.pack(">I", OWNER | PERSIST)))


def missing_modules(needed: Mapping[str, bytes] = NEEDED) -> tuple[str, ...]:
    """The kernel modules that our rules need and that cannot be had, each tried in a table that does not
    last. OSError as `filters`.
    """
    return tuple(module for module, expression in needed.items() if not _possible(b"", expression))


def _possible(flags: bytes, expression: bytes | None = None) -> bool:
    """Does the kernel take a table with these flags, with a rule of this expression; it is removed in the
    same transaction.
    """
    name = attribute(1, f"facilitator-trial-{secrets.token_hex(4)}".encode() + b"\x00")
    inet, chain = struct.pack("=BBH", 1, 0, 0), b"trial\x00"
    edge = struct.pack(">BBH", 0, 0, _NFTABLES >> 8)
    made = [(_NEW_TABLE, name + flags)]
    if expression is not None:
        made += [
            (_NEW_CHAIN, name + attribute(3, chain)),
            (_NEW_RULE, name + attribute(2, chain) + expression),
        ]
    last = len(made) + 2
    batch = (
        message(_BEGIN, REQUEST | ACK, edge, 1),
        *(
            message(_NFTABLES | kind, REQUEST | ACK | CREATE, inet + body, number)
            for number, (kind, body) in enumerate(made, 2)
        ),
        message(_NFTABLES | _DELETE_TABLE, REQUEST | ACK, inet + name, last),
        message(_END, REQUEST, edge, last + 1),
    )
    with opened(_NETFILTER) as sock:
        sock.send(b"".join(batch))
        seen: set[int] = set()
        while last not in seen:
            for kind, number, body in received(sock):
                seen.add(number)
                code = -struct.unpack_from("=i", body)[0] if kind == ERROR else 0
                if code in _REFUSALS:
                    raise PermissionError(code, os.strerror(code))
                if code:
                    return False
    return True


def policy_rules() -> tuple[PolicyRule, ...]:
    """The policy rules of others, of IPv4 and IPv6. Needs no right."""
    found = []
    with opened(socket.NETLINK_ROUTE) as sock:
        for version, family in FAMILY.items():
            for body in dump(sock, _GET_POLICY_RULES, struct.pack("=12B", family, *bytes(11))):
                if body[0] == family and dict(attributes(body[_POLICY_RULE:])).get(_PROTOCOL, b"")[
                    :1
                ] != bytes([PROTOCOL]):
                    found.append(_policy_rule(version, body))
    return tuple(found)


def table_routes(tables: Iterable[tuple[int, int]]) -> tuple[TableRoute, ...]:
    """The routes of these tables, each with its IP version; of a very large one the first. Needs no right."""
    return tuple(
        route for version, table in tables for route in itertools.islice(_table(version, table), MOST)
    )


def _table(version: int, table: int) -> Iterator[TableRoute]:
    request = struct.pack("=BBBBBBBBI", FAMILY[version], *bytes(8)) + attribute(
        _ROUTE_TABLE, struct.pack("=I", table)
    )
    try:
        with opened(socket.NETLINK_ROUTE, strict=True) as sock:
            for body in dump(sock, _GET_ROUTES, request):
                values = dict(attributes(body[_ROUTE_HEADER:]))
                if body[0] == FAMILY[version] and _native(values.get(_ROUTE_TABLE)) == table:
                    yield TableRoute(
                        table,
                        _network(version, values.get(1), body[1]),
                        _KINDS.get(body[7], "other"),
                        _device(values.get(4)),
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
        with opened(socket.NETLINK_ROUTE) as sock:
            body = one(sock, _GET_ROUTES, request)
    except OSError:  # nowhere
        return None
    return _device(dict(attributes(body[_ROUTE_HEADER:])).get(4)) or None


def not_forwarding() -> frozenset[str]:
    """The devices that pass on no IPv4 packets that come in by them."""
    with opened(socket.NETLINK_ROUTE) as sock:
        found = [
            dict(attributes(body[_NETCONF_HEADER:]))
            for body in dump(sock, _GET_NETCONF, struct.pack("=B3x", socket.AF_INET))
        ]
    return frozenset(
        _device(each[1]) for each in found if 1 in each and 2 in each and not _native(each[2])
    ) - {""}


def listening() -> tuple[tuple[int, int, int], ...]:
    """Port, inode and user of everything that takes TCP connections. OSError: the kernel cannot tell that
    way.
    """
    found = []
    with opened(_SOCK_DIAG) as sock:
        for family in FAMILY.values():
            request = struct.pack("=BBBxI48x", family, socket.IPPROTO_TCP, 0, 1 << _LISTEN)
            for body in dump(sock, _BY_FAMILY, request):
                user, inode = struct.unpack_from("=II", body, _USER)
                found.append((int.from_bytes(body[4:6]), int(inode), int(user)))
    return tuple(found)


def indexes() -> dict[str, int]:
    """The kernel's numbers of all devices."""
    return {name: number for number, name in socket.if_nameindex()}


# --- understanding
# ----------------------------------------------------------------------------------------------------------

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


def _policy_rule(version: int, body: bytes) -> PolicyRule:
    _, to_length, from_length, tos, table, _, _, action, flags = struct.unpack_from("=BBBBBBBBI", body)
    values = dict(attributes(body[_POLICY_RULE:]))
    mark = _native(values.get(10))
    mask = _native(values[16]) if 16 in values else (_NOT_SET if mark else 0)
    lengths = {1: to_length, 2: from_length}
    selectors = [
        _selector(kind, word, values[kind], lengths.get(kind))
        for kind, word in _SELECTORS.items()
        if kind in values
    ]
    number = _native(values[15]) if 15 in values else table
    what, suppressed = (
        _ACTIONS.get(action, f"action {action}"),
        _native(values.get(14, _ANY)) if 14 in values else _NOT_SET,
    )
    onward = _native(values.get(4))
    where = {"lookup": f" {_TABLES.get(number, number)}", "goto": f" {onward}"}.get(what, "")
    but = f" suppress_prefixlength {suppressed}" if suppressed != _NOT_SET else ""
    marked = [f"fwmark {mark:#x}/{mask:#x}"] if mask else []
    narrow = bool(_NARROW & values.keys()) or tos != 0 or _native(values.get(13, _ANY)) != _NOT_SET
    return PolicyRule(
        version,
        _native(values.get(6)),
        " ".join(["not"] * bool(flags & 2) + selectors + marked + [what + where + but]),
        mark,
        mask,
        narrow,
        bool(flags & 2),
        source=_network(version, values[2], from_length) if 2 in values else None,
        target=_network(version, values[1], to_length) if 1 in values else None,
        arrives=_text(values.get(3, b"")),
        action=what,
        table=number,
        onward=onward,
        suppresses=-1 if suppressed == _NOT_SET else suppressed,
    )


def _network(version: int, data: bytes | None, length: int) -> IPNetwork:
    address = ip_address(data if data is not None else bytes(4 if version == 4 else 16))
    return ip_network(f"{address}/{length}", strict=False)


def _device(data: bytes | None) -> str:
    try:
        return socket.if_indextoname(_native(data)) if data is not None else ""
    except OSError:
        return ""


def _selector(kind: int, word: str, data: bytes, length: int | None) -> str:
    if kind in (1, 2):
        return f"{word} {ip_address(data)}/{length}"
    return f"{word} {_text(data)}" if kind in (3, 17) else word


def _text(data: bytes) -> str:
    return data.rstrip(b"\x00").decode(errors="replace")


def _native(data: bytes | None) -> int:
    return int(struct.unpack("=I", data)[0]) if data is not None else 0
