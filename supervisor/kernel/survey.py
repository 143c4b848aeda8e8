"""Looks at what other programs have put into the kernel, for `facilitator doctor`: base chains, policy rules, and one trial transaction.

Plain blocking sockets and hand-made messages: a dump or two, at once, and nothing of it lasts.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from types import MappingProxyType

from supervisor.kernel.bulk import PROTOCOL
from supervisor.kernel.errors import TIMEOUT
from supervisor.kernel.netlink import NESTED, attribute, attributes
from supervisor.kernel.nftables import OWNER, PERSIST

FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}
HOOKS = {1: "input", 2: "forward"}
_NETFILTER, _NFTABLES = 12, 10 << 8
_NEW_TABLE, _DELETE_TABLE, _NEW_CHAIN, _GET_CHAIN, _NEW_RULE, _GET_RULE = 0, 2, 3, 4, 6, 7
_BEGIN, _END, _ERROR, _DONE = 0x10, 0x11, 2, 3
_REQUEST, _ACK, _DUMP, _CREATE = 0x1, 0x4, 0x300, 0x400
_HEADER = struct.Struct("=IHHII")
_LARGEST = 1 << 18              # bytes of one answer
_NFGENMSG = 4                   # bytes before the attributes
_GET_POLICY_RULES, _POLICY_RULE = 34, 12
_REFUSALS = (errno.EPERM, errno.EACCES)
_DROP = 0                       # as policy and as verdict


def rule_of(name: bytes, *numbers: tuple[int, int]) -> bytes:
    """The expressions of a rule with this one: NFTA_RULE_EXPRESSIONS > NFTA_LIST_ELEM > NFTA_EXPR_NAME and _DATA."""
    data = b"".join(attribute(kind, struct.pack(">I", number)) for kind, number in numbers)
    return attribute(4 | NESTED, attribute(1 | NESTED, attribute(1, name + b"\x00") + attribute(2 | NESTED, data)))


# What not every kernel is built with: `socket transparent` into register 1, and `ct count 1`.
NEEDED: Mapping[str, bytes] = MappingProxyType({
    "nft_socket": rule_of(b"socket", (1, 0), (2, 1)), "nft_connlimit": rule_of(b"connlimit", (1, 1)),
})


@dataclass(frozen=True, slots=True)
class BaseChain:
    """A filter chain where packets enter nftables."""

    family: str
    table: str
    name: str
    hook: str
    drops: bool                 # by its policy


@dataclass(slots=True)
class Filters:
    """What nftables holds, as far as it may stand in the way."""

    base: list[BaseChain] = field(default_factory=list)
    chains: dict[tuple[str, str], set[str]] = field(default_factory=dict)          # by family and table
    rules: dict[tuple[str, str, str], list[bytes]] = field(default_factory=dict)   # by family, table and chain, as they come

    def reach(self, chain: BaseChain) -> frozenset[str]:
        """The chain and all chains that it leads to."""
        siblings = self.chains.get((chain.family, chain.table), set())
        waiting, seen = [chain.name], {chain.name}
        while waiting:
            rules = self.rules.get((chain.family, chain.table, waiting.pop()), ())
            new = {name for name in siblings - seen for rule in rules if name.encode() + b"\x00" in rule}
            seen |= new
            waiting += new
        return frozenset(seen)

    def mentions(self, chain: BaseChain, word: str) -> bool:
        """Does a rule of these chains carry the word?"""
        needle = word.encode()
        return any(needle in rule for name in self.reach(chain) for rule in self.rules.get((chain.family, chain.table, name), ()))

    def ending(self, chain: BaseChain) -> str | None:
        """What the chain's last rule does to every packet that came so far: "drop", "reject", or None."""
        rules = self.rules.get((chain.family, chain.table, chain.name), ())
        return _unconditional(rules[-1]) if rules else None


@dataclass(frozen=True, slots=True)
class ForeignRule:
    """A policy rule that does not carry our protocol number."""

    version: int
    priority: int
    text: str
    mark: int
    mask: int
    narrow: bool
    inverted: bool


def filters() -> Filters:
    """All filter chains with their rules. OSError: PermissionError without CAP_NET_ADMIN, or no nftables in the kernel."""
    found = Filters()
    with _socket(_NETFILTER) as sock:
        for family, body in _nftables(sock, _GET_CHAIN):
            values = dict(attributes(body))
            place = family, _text(values[1])
            found.chains.setdefault(place, set()).add(_text(values[3]))
            hook = _hook(values)
            if hook is not None:
                found.base.append(BaseChain(*place, _text(values[3]), hook, _number(values.get(5)) == _DROP))
        for family, body in _nftables(sock, _GET_RULE):
            values = dict(attributes(body))
            found.rules.setdefault((family, _text(values[1]), _text(values[2])), []).append(body)
    return found


def owner_persist() -> bool:
    """Can a table have an owner and outlive it? Tried with a table that is made and removed in one transaction. OSError as `filters`."""
    return _possible(attribute(2, struct.pack(">I", OWNER | PERSIST)))


def missing_modules(needed: Mapping[str, bytes] = NEEDED) -> tuple[str, ...]:
    """The kernel modules that our rules need and that cannot be had, each tried in a table that does not last. OSError as `filters`."""
    return tuple(module for module, expression in needed.items() if not _possible(b"", expression))


def _possible(flags: bytes, expression: bytes | None = None) -> bool:
    """Does the kernel take a table with these flags, with a rule of this expression; it is removed in the same transaction."""
    name = attribute(1, f"facilitator-trial-{secrets.token_hex(4)}".encode() + b"\x00")
    inet, chain = struct.pack("=BBH", 1, 0, 0), b"trial\x00"
    edge = struct.pack(">BBH", 0, 0, _NFTABLES >> 8)
    made = [(_NEW_TABLE, name + flags)]
    if expression is not None:
        made += [(_NEW_CHAIN, name + attribute(3, chain)), (_NEW_RULE, name + attribute(2, chain) + expression)]
    last = len(made) + 2
    batch = (
        _message(_BEGIN, _REQUEST | _ACK, edge, 1),
        *(_message(_NFTABLES | kind, _REQUEST | _ACK | _CREATE, inet + body, number) for number, (kind, body) in enumerate(made, 2)),
        _message(_NFTABLES | _DELETE_TABLE, _REQUEST | _ACK, inet + name, last), _message(_END, _REQUEST, edge, last + 1),
    )
    with _socket(_NETFILTER) as sock:
        sock.send(b"".join(batch))
        seen: set[int] = set()
        while last not in seen:
            for kind, number, body in _received(sock):
                seen.add(number)
                code = -struct.unpack_from("=i", body)[0] if kind == _ERROR else 0
                if code in _REFUSALS:
                    raise PermissionError(code, os.strerror(code))
                if code:
                    return False
    return True


def policy_rules() -> tuple[ForeignRule, ...]:
    """The policy rules of others, of IPv4 and IPv6. Needs no right."""
    found = []
    with _socket(socket.NETLINK_ROUTE) as sock:
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            for body in _dump(sock, _GET_POLICY_RULES, struct.pack("=12B", family, *bytes(11))):
                if body[0] == family and dict(attributes(body[_POLICY_RULE:])).get(21, b"")[:1] != bytes([PROTOCOL]):
                    found.append(_policy_rule(version, body))
    return tuple(found)


# --- understanding ---------------------------------------------------------------------------------------------------------------


def _hook(values: dict[int, bytes]) -> str | None:
    """The hook of a filter chain, if it is one of those that matter."""
    if 4 not in values or _text(values.get(7, b"")) != "filter":
        return None
    return HOOKS.get(_number(dict(attributes(values[4])).get(1)))


def _unconditional(rule: bytes) -> str | None:
    verdict = None
    for name, data in _expressions(rule):
        values = dict(attributes(data))
        if name in ("counter", "log"):
            continue
        if name == "reject" or (name == "target" and _text(values.get(1, b"")) == "REJECT"):
            verdict = "reject"
        elif name == "immediate" and _number(dict(attributes(dict(attributes(values.get(2, b""))).get(2, b""))).get(1)) == _DROP:
            verdict = "drop"
        else:
            return None
    return verdict


def _expressions(rule: bytes) -> Iterator[tuple[str, bytes]]:
    for kind, data in attributes(rule):
        if kind == 4:
            for _, expression in attributes(data):
                values = dict(attributes(expression))
                yield _text(values.get(1, b"")), values.get(2, b"")


_SELECTORS = {1: "to", 2: "from", 3: "iif", 17: "oif", 20: "uidrange", 22: "ipproto", 23: "sport", 24: "dport"}


def _policy_rule(version: int, body: bytes) -> ForeignRule:
    _, to_length, from_length, tos, table, _, _, action, flags = struct.unpack_from("=BBBBBBBBI", body)
    values = dict(attributes(body[_POLICY_RULE:]))
    mark = _native(values.get(10))
    mask = _native(values[16]) if 16 in values else (0xFFFF_FFFF if mark else 0)
    lengths = {1: to_length, 2: from_length}
    selectors = [_selector(kind, word, values[kind], lengths.get(kind)) for kind, word in _SELECTORS.items() if kind in values]
    number = _native(values[15]) if 15 in values else table
    what = f"lookup {({253: 'default', 254: 'main', 255: 'local'}).get(number, number)}" if action == 1 else f"action {action}"
    marked = [f"fwmark {mark:#x}/{mask:#x}"] if mask else []
    words = ["not"] * bool(flags & 2) + selectors + marked + [what]
    narrow = bool(selectors) or tos != 0
    return ForeignRule(version, _native(values.get(6)), " ".join(words), mark, mask, narrow, bool(flags & 2))


def _selector(kind: int, word: str, data: bytes, length: int | None) -> str:
    if kind in (1, 2):
        return f"{word} {ip_address(data)}/{length}"
    return f"{word} {_text(data)}" if kind in (3, 17) else word


def _text(data: bytes) -> str:
    return data.rstrip(b"\x00").decode(errors="replace")


def _number(data: bytes | None) -> int:
    return int.from_bytes(data, "big") if data else -1


def _native(data: bytes | None) -> int:
    return int(struct.unpack("=I", data)[0]) if data is not None else 0


# --- asking ----------------------------------------------------------------------------------------------------------------------


def _socket(protocol: int) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    sock.bind((0, 0))
    sock.settimeout(TIMEOUT)
    return sock


def _message(kind: int, flags: int, body: bytes, number: int) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, number, 0) + body


def _nftables(sock: socket.socket, kind: int) -> Iterator[tuple[str, bytes]]:
    """Family and attributes of every object, of the families that forward IP."""
    for body in _dump(sock, _NFTABLES | kind, bytes(_NFGENMSG)):
        if body[0] in FAMILIES:
            yield FAMILIES[body[0]], body[_NFGENMSG:]


def _dump(sock: socket.socket, kind: int, body: bytes) -> Iterator[bytes]:
    sock.send(_message(kind, _REQUEST | _DUMP, body, 1))
    while True:
        for answer, _, content in _received(sock):
            if answer == _DONE:
                return
            if answer == _ERROR:
                code = -struct.unpack_from("=i", content)[0]
                raise OSError(code, os.strerror(code))
            yield content


def _received(sock: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    """Type, sequence number and body of each message in the next datagram."""
    data = sock.recv(_LARGEST)
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, number, _ = _HEADER.unpack_from(data, at)
        yield kind, number, data[at + _HEADER.size:at + length]
        at += max(_HEADER.size, -(-length // 4) * 4)
