"""The expressions of nftables rules, from the kernel's bytes to `core.netfilter`; also the matches of
iptables that nft carries along.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType

from common.netlink import attributes, text
from supervisor.core.netfilter.values import (
    Between,
    Compare,
    Consequence,
    Constant,
    Expression,
    LoadExpression,
    Masked,
    Member,
    Opaque,
    Swapped,
)

Values = Mapping[int, bytes]
_VERDICTS: Mapping[int, str] = MappingProxyType(
    {0: "drop", 1: "accept", 3: "accept", -3: "jump", -4: "goto", -5: "return"}
)
_META: Mapping[int, tuple[str, int]] = MappingProxyType(
    {
        1: ("protocol", 2),
        3: ("mark", 4),
        4: ("iif", 4),
        5: ("oif", 4),
        6: ("iifname", 16),
        7: ("oifname", 16),
        15: ("nfproto", 1),
        16: ("l4proto", 1),
        19: ("pkttype", 1),
    }
)
_CT: Mapping[int, tuple[str, int]] = MappingProxyType(
    {0: ("ct state", 4), 1: ("ct direction", 1), 3: ("ct mark", 4)}
)
_OPERATORS = ("==", "!=", "<", "<=", ">", ">=")
_HEADERS: Mapping[int, str] = MappingProxyType({1: "network", 2: "transport"})
_REVERSE_PATH = (1, 1 | 8)  # fib: the outgoing device, looked up by source address and incoming device
_MARK, _PRESENT = 4, 32  # flags of fib that change nothing here, and that ask only whether there is a result
_SILENT = frozenset({"counter", "log", "notrack", "last", "objref", "dup"})
_ACCEPTING = frozenset({"nat", "masq", "redir", "queue", "synproxy"})
_SILENT_TARGETS = frozenset(
    {
        "LOG",
        "NFLOG",
        "MARK",
        "CONNMARK",
        "CT",
        "TRACE",
        "CHECKSUM",
        "TCPMSS",
        "SET",
        "AUDIT",
        "CLASSIFY",
        "DSCP",
        "TOS",
        "SECMARK",
        "CONNSECMARK",
    }
)
_ENDING_TARGETS: Mapping[str, str] = MappingProxyType(
    {
        "REJECT": "reject",
        "DROP": "drop",
        "MASQUERADE": "accept",
        "SNAT": "accept",
        "DNAT": "accept",
        "REDIRECT": "accept",
        "NETMAP": "accept",
        "NFQUEUE": "accept",
        "SYNPROXY": "accept",
    }
)
_ANY_PORT = (0, 0xFFFF)
# XT_CONNTRACK_STATE, XT_CONNTRACK_STATE_ALIAS: it looks at the state, and was written as `-m state`.
_BY_STATE, _AS_STATE = 1, 1 << 13
_STATES = 0x4F  # those that nft numbers alike: invalid, established, related, new, untracked
_STATE_OFFSETS = (146, 148, 150)  # in struct xt_conntrack_mtinfo3: flags, those inverted, states


def decoded(name: str, data: bytes) -> tuple[tuple[Expression, ...], str]:
    """What an expression does, and the comment that it is, if it is one."""
    values = dict(attributes(data))
    if name == "match":
        return _match(text(values.get(1, b"")), values.get(3, b""))
    if name in _SILENT:
        return (), ""
    if name in _ACCEPTING:
        return (Consequence("accept"),), ""
    found = _DECODERS[name](values) if name in _DECODERS else Opaque()
    return (found if isinstance(found, tuple) else (found,)), ""


def consequence(data: bytes) -> Consequence | None:
    """A verdict, as rules and elements of verdict maps have it; None: it is none."""
    verdict = dict(attributes(data)).get(2)
    if verdict is None:
        return None
    values = dict(attributes(verdict))
    code = struct.unpack(">i", values[1])[0]
    return Consequence(_VERDICTS.get(code if code < 0 else code & 0xFF, "continue"), text(values.get(2, b"")))


def _number(data: bytes | None) -> int:
    return int.from_bytes(data, "big") if data else 0


def _register(data: bytes | None) -> int:
    """Its first byte. There are four of 16 bytes, and the same ones as sixteen of 4."""
    number = _number(data)
    return (number - 1) * 16 if 1 <= number <= 4 else max(0, number - 8) * 4


def _value(data: bytes) -> bytes:
    return dict(attributes(data)).get(1, b"")


# --- nftables
# ----------------------------------------------------------------------------------------------------------


def _loaded(values: Values, known: Mapping[int, tuple[str, int]]) -> Expression | tuple[()]:
    if 1 not in values:
        return ()  # it sets something
    to, key = _register(values[1]), _number(values.get(2))
    return LoadExpression(to, *known[key]) if key in known else Opaque(to, 16)


def _payload(values: Values) -> Expression | tuple[()]:
    if 1 not in values:
        return ()
    to, base, offset, size = (
        _register(values[1]),
        _number(values.get(2)),
        _number(values.get(3)),
        _number(values.get(4)),
    )
    return LoadExpression(to, _HEADERS[base], size, offset) if base in _HEADERS else Opaque(to, size)


def _compare(values: Values) -> Expression:
    return Compare(_register(values[1]), _OPERATORS[_number(values.get(2))], _value(values[3]))


def _range(values: Values) -> Expression:
    return Between(_register(values[1]), _value(values[3]), _value(values[4]), _number(values.get(2)) == 1)


def _bitwise(values: Values) -> Expression:
    to, at, size = _register(values[2]), _register(values[1]), _number(values.get(3))
    if _number(values.get(6)) or 4 not in values or 5 not in values:
        return Opaque(to, size)
    return Masked(to, at, _value(values[4]), _value(values[5]))


def _byteorder(values: Values) -> Expression:
    return Swapped(_register(values[2]), _register(values[1]), _number(values.get(4)), _number(values.get(5)))


def _lookup(values: Values) -> Expression:
    to = _register(values[3]) if _number(values.get(3)) else None
    return Member(_register(values[2]), text(values[1]), bool(_number(values.get(5)) & 1), to)


def _immediate(values: Values) -> Expression | tuple[()]:
    then = consequence(values[2])
    if then is None:
        return Constant(_register(values[1]), _value(values[2]))
    return then if then.how != "continue" else ()


def _fib(values: Values) -> Expression:
    result, flags = _number(values.get(2)), _number(values.get(3))
    if (result, flags & ~(_MARK | _PRESENT)) != _REVERSE_PATH:
        return Opaque(_register(values[1]), 4)
    return (
        LoadExpression(_register(values[1]), "reverse path", 1)
        if flags & _PRESENT
        else Opaque(_register(values[1]), 4)
    )


def _dynset(values: Values) -> Expression | tuple[()]:
    # With an expression (a limit) it may end the rule.
    return Opaque() if 7 in values or 10 in values else ()


def _target(values: Values) -> Expression | tuple[()]:
    name = text(values.get(1, b""))
    if name in _ENDING_TARGETS:
        return Consequence(_ENDING_TARGETS[name])
    return () if name in _SILENT_TARGETS else Opaque()


_DECODERS: Mapping[str, Callable[[Values], Expression | tuple[()]]] = MappingProxyType(
    {
        "meta": lambda values: _loaded(values, _META),
        "ct": lambda values: _loaded(values, _CT),
        "payload": _payload,
        "cmp": _compare,
        "range": _range,
        "bitwise": _bitwise,
        "byteorder": _byteorder,
        "lookup": _lookup,
        "immediate": _immediate,
        "fib": _fib,
        "dynset": _dynset,
        "target": _target,
        "reject": lambda _: Consequence("reject"),
        "tproxy": lambda _: (),
    }
)


# --- iptables
# ----------------------------------------------------------------------------------------------------------


def _match(name: str, info: bytes) -> tuple[tuple[Expression, ...], str]:
    if name == "comment":
        return (), text(info.partition(b"\0")[0])
    try:
        return (_MATCHES[name](info) if name in _MATCHES else (Opaque(),)), ""
    except struct.error:
        return (Opaque(),), ""


def _bits(source: str, mask: int, operator: str, value: int = 0) -> tuple[Expression, ...]:
    return (
        LoadExpression(0, source, 4),
        Masked(0, 0, struct.pack("=I", mask), bytes(4)),
        Compare(0, operator, struct.pack("=I", value)),
    )


def _conntrack(info: bytes) -> tuple[Expression, ...]:
    flags, inverted, states = (struct.unpack_from("=H", info, offset)[0] for offset in _STATE_OFFSETS)
    if flags & ~_AS_STATE != _BY_STATE or states & ~_STATES:
        return (Opaque(),)
    return _bits("ct state", states, "==" if inverted & _BY_STATE else "!=")


def _mark(source: str) -> Callable[[bytes], tuple[Expression, ...]]:
    def match(info: bytes) -> tuple[Expression, ...]:
        mark, mask, invert = struct.unpack_from("=IIB", info)
        return _bits(source, mask, "!=" if invert else "==", mark)

    return match


def _ports(protocol: int, inverted_at: int) -> Callable[[bytes], tuple[Expression, ...]]:
    def match(info: bytes) -> tuple[Expression, ...]:
        source, target, inverted = (
            struct.unpack_from("=HH", info),
            struct.unpack_from("=HH", info, 4),
            info[inverted_at],
        )
        flags = info[9] if protocol == 6 else 0
        found: tuple[Expression, ...] = (LoadExpression(0, "l4proto", 1), Compare(0, "==", bytes([protocol])))
        for n, (first, last) in enumerate((source, target)):
            if (first, last) != _ANY_PORT:
                ends = first.to_bytes(2), last.to_bytes(2)
                found += (
                    LoadExpression(0, "transport", 2, 2 * n),
                    Between(0, *ends, bool(inverted & 1 << n)),
                )
        return (*found, Opaque()) if flags else found

    return match


_MATCHES: Mapping[str, Callable[[bytes], tuple[Expression, ...]]] = MappingProxyType(
    {
        "conntrack": _conntrack,
        "mark": _mark("mark"),
        "connmark": _mark("ct mark"),
        "tcp": _ports(6, 11),
        "udp": _ports(17, 8),
    }
)
