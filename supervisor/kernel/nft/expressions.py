"""The expressions that nftables rules are made of, packed (linux/netfilter/nf_tables.h).

Each function gives the expressions of one clause of the `nft` language; a rule is their concatenation. The
kernel keeps values in registers of 16 bytes (1, 2, ...) that also have names for each 4 bytes (8, 9, ...): 9
is the second word of register 1.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from types import MappingProxyType

from common.netlink import NESTED, attribute, text_attribute

Expression = bytes  # NFTA_EXPR_NAME and NFTA_EXPR_DATA
Clause = tuple[Expression, ...]

_FIRST_WORD, _SECOND_WORD, _LAST_WORD = 8, 9, 23  # of the registers; the first is that of register 1
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_JUMP, _RETURN = -3, -5
_NEIGHBOUR_SOLICITATION, _NEIGHBOUR_ADVERTISEMENT = 135, 136  # RFC 4861, ICMPv6 types
_EQ, _NEQ, _LTE, _GTE = 0, 1, 3, 5
_ICMP, _TCP, _UDP, _ICMPV6 = b"\x01", b"\x06", b"\x11", b"\x3a"
_ECHO_REQUEST = {4: b"\x08", 6: b"\x80"}  # ICMP types: RFC 792, RFC 4443
_TTL_AND_PROTOCOL, _HEADER_CHECKSUM = 8, 10  # offsets in an IPv4 header
_HOP_LIMIT = 7  # offset in an IPv6 header
_SUM_OF_HEADER = 1  # NFT_PAYLOAD_CSUM_INET
_NFPROTO = {4: 2, 6: 10}
_ADDRESS = {4: (12, 16, 4), 6: (8, 24, 16)}  # offset of source and of destination, length
_META = {"mark": 3, "iifname": 6, "oifname": 7, "skgid": 11, "nfproto": 15, "l4proto": 16}
_CT = {"state": 0, "direction": 1, "status": 2, "mark": 3}
_CT_STATES = {"invalid": 1, "new": 8}
_SOCKET_TRANSPARENT = _DYNSET_ADD = 0
_OVER = 1  # NFT_CONNLIMIT_F_INV
_NOT_IN = 1  # NFT_LOOKUP_F_INV
_CT_DNAT = 1 << 5  # IPS_DST_NAT
_FIB_OIF, _FIB_SADDR, _FIB_IIF, _FIB_PRESENT = 1, 1, 8, 32  # NFT_FIB_RESULT_OIF, NFTA_FIB_F_*
_FIB_TYPE, _FIB_DADDR, _LOCAL = 3, 2, 2  # NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR, RTN_LOCAL
_NAT_PORTS, _NAT_PREFIX = 1 << 1, 1 << 6  # NF_NAT_RANGE_PROTO_SPECIFIED, NF_NAT_RANGE_NETMAP
_VALUE, _VERDICT, _VERDICT_CODE, _VERDICT_CHAIN = 1, 2, 1, 2  # NFTA_DATA_*, NFTA_VERDICT_*

# The attributes of each expression by their number, from 1 on: NFTA_META_DREG, NFTA_META_KEY, ...
_ATTRIBUTES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "bitwise": ("sreg", "dreg", "len", "mask", "xor"),
        "byteorder": ("sreg", "dreg", "op", "len", "size"),
        "cmp": ("sreg", "op", "data"),
        "connlimit": ("count", "flags"),
        "counter": ("bytes", "packets"),
        "ct": ("dreg", "key", "direction", "sreg"),
        "dup": ("sreg_addr", "sreg_dev"),
        "dynset": ("set_name", "set_id", "op", "sreg_key", "sreg_data", "timeout", "expr"),
        "exthdr": ("dreg", "type", "offset", "len", "flags", "op", "sreg"),
        "fib": ("dreg", "result", "flags"),
        "immediate": ("dreg", "data"),
        "lookup": ("set", "sreg", "dreg", "set_id", "flags"),
        "masq": ("flags",),
        "meta": ("dreg", "key", "sreg"),
        "nat": ("type", "family", "reg_addr_min", "reg_addr_max", "reg_proto_min", "reg_proto_max", "flags"),
        "payload": ("dreg", "base", "offset", "len", "sreg", "csum_type", "csum_offset"),
        "redir": ("reg_proto_min", "reg_proto_max", "flags"),
        "reject": ("type", "icmp_code"),
        "socket": ("key", "dreg"),
    }
)
_BYTES: Mapping[tuple[str, str], int] = MappingProxyType(  # of numbers; all others have 4
    {("exthdr", "type"): 1, ("reject", "icmp_code"): 1, ("counter", "bytes"): 8, ("counter", "packets"): 8}
)


def expression(name: str, **values: int | str | bytes) -> Expression:
    """One expression of the kernel: `expression("meta", key=3, dreg=1)`. A number is packed in network order,
    bytes are attributes.
    """
    data = b"".join([_packed(name, key, value) for key, value in values.items()])
    return text_attribute(1, name) + attribute(2 | NESTED, data)


def _packed(name: str, key: str, value: int | str | bytes) -> bytes:
    kind = _ATTRIBUTES[name].index(key) + 1
    match value:
        case int():
            return attribute(kind, value.to_bytes(_BYTES.get((name, key), 4), "big"))
        case str():
            return text_attribute(kind, value)
        case bytes():
            return attribute(kind | NESTED, value)


def meta(key: str, register: int = 1) -> Clause:
    """Load `meta KEY`."""
    return (expression("meta", dreg=register, key=_META[key]),)


def set_meta_mark() -> Clause:
    """`meta mark set` from the register."""
    return (expression("meta", key=_META["mark"], sreg=1),)


def ct(key: str) -> Clause:
    """Load `ct KEY`. The rule ends here for a packet that has no connection (invalid or untracked), except
    for `state`.
    """
    return (expression("ct", dreg=1, key=_CT[key]),)


def set_ct_mark() -> Clause:
    """`ct mark set` from the register."""
    return (expression("ct", key=_CT["mark"], sreg=1),)


def ct_direction(word: str) -> Clause:
    """`ct direction original` or `reply`."""
    return (*ct("direction"), _compare(_EQ, b"\x01" if word == "reply" else b"\x00"))


def ct_state(*words: str) -> Clause:
    """`ct state WORD,WORD`."""
    return (*ct("state"), *_any_bit(sum(_CT_STATES[word] for word in words)))


def ct_status_dnat() -> Clause:
    """`ct status dnat`: the connection's destination was changed (a redirect does that)."""
    return (*ct("status"), *_any_bit(_CT_DNAT))


def family(version: int) -> Clause:
    """`meta nfproto ipv4` or `ipv6`."""
    return (*meta("nfproto"), _compare(_EQ, bytes([_NFPROTO[version]])))


def source(version: int) -> Clause:
    """Load `ip saddr` or `ip6 saddr`."""
    offset, _, length = _ADDRESS[version]
    return (*family(version), _payload(_NETWORK_HEADER, offset, length))


def destination(version: int) -> Clause:
    """Load `ip daddr` or `ip6 daddr`."""
    _, offset, length = _ADDRESS[version]
    return (*family(version), _payload(_NETWORK_HEADER, offset, length))


def within(name: str) -> Clause:
    """`@NAME`: what is loaded is in the set."""
    return (expression("lookup", set=name, sreg=1),)


def outside(name: str) -> Clause:
    """`!= @NAME`: what is loaded is not in the set."""
    return (expression("lookup", set=name, sreg=1, flags=_NOT_IN),)


def mapped(name: str) -> Clause:
    """`map @NAME`: replace what is loaded by what the map says; the rule ends here when it says nothing."""
    return (expression("lookup", set=name, sreg=1, dreg=1),)


def between(first: int, last: int) -> Clause:
    """The loaded number (4 bytes, host order) lies in a range."""
    return (_big_endian(), _compare(_GTE, struct.pack(">I", first)), _compare(_LTE, struct.pack(">I", last)))


def tcp() -> Clause:
    """`meta l4proto tcp`."""
    return (*meta("l4proto"), _compare(_EQ, _TCP))


def tcp_dport(first: int, last: int) -> Clause:
    """`tcp dport FIRST-LAST`."""
    low, high = struct.pack(">H", first), struct.pack(">H", last)
    return (*tcp(), _payload(_TRANSPORT_HEADER, 2, 2), _compare(_GTE, low), _compare(_LTE, high))


def load_tcp_dport() -> Clause:
    """Load `tcp dport`."""
    return (*tcp(), _payload(_TRANSPORT_HEADER, 2, 2))


def socket_transparent() -> Clause:
    """`socket transparent 1`: the socket that gets the packet has IP_TRANSPARENT, which needs
    CAP_NET_ADMIN. False where there is none.
    """
    return (expression("socket", key=_SOCKET_TRANSPARENT, dreg=1), _compare(_EQ, b"\x01"))


def more_than(limit: int, name: str, version: int) -> Clause:
    """`add @NAME { tcp dport . ip saddr ct count over LIMIT }`: this source holds more connections to this
    port; TCP is known.
    """
    offset, _, length = _ADDRESS[version]
    count = expression("connlimit", count=limit, flags=_OVER)
    return (
        *family(version),
        _payload(_TRANSPORT_HEADER, 2, 2),
        _payload(_NETWORK_HEADER, offset, length, _SECOND_WORD),
        expression("dynset", set_name=name, op=_DYNSET_ADD, sreg_key=1, expr=count),
    )


def tcp_syn() -> Clause:
    """`tcp flags syn / syn,rst`. The flags come first: the kernel evaluates these three without a call,
    and few packets get any further.
    """
    bits = expression("bitwise", sreg=1, dreg=1, len=1, mask=_value(b"\x06"), xor=_value(b"\x00"))
    return (_payload(_TRANSPORT_HEADER, 13, 1), bits, _compare(_EQ, b"\x02"), *tcp())


def not_a_tcp_syn() -> Clause:
    """`tcp flags & (fin|syn|rst|ack) != syn`: it does not open a connection. The flags come first, as in
    `tcp_syn`.
    """
    bits = expression("bitwise", sreg=1, dreg=1, len=1, mask=_value(b"\x17"), xor=_value(b"\x00"))
    return (_payload(_TRANSPORT_HEADER, 13, 1), bits, _compare(_NEQ, b"\x02"), *tcp())


def udp_dport() -> Clause:
    """Load `udp dport`."""
    return (*meta("l4proto"), _compare(_EQ, _UDP), _payload(_TRANSPORT_HEADER, 2, 2))


def echo_request(version: int) -> Clause:
    """`icmp type echo-request` or `icmpv6 type echo-request`."""
    return (
        *family(version),
        *meta("l4proto"),
        _compare(_EQ, _ICMP if version == 4 else _ICMPV6),
        _payload(_TRANSPORT_HEADER, 0, 1),
        _compare(_EQ, _ECHO_REQUEST[version]),
    )


def to_this_host() -> Clause:
    """`fib daddr type local`."""
    kind = expression("fib", dreg=1, result=_FIB_TYPE, flags=_FIB_DADDR)
    return (kind, _compare(_EQ, struct.pack("=I", _LOCAL)))


def from_the_link(version: int) -> Clause:
    """`ip ttl 255` or `ip6 hoplimit 255`: no router has forwarded it (RFC 5082)."""
    offset = _TTL_AND_PROTOCOL if version == 4 else _HOP_LIMIT
    return (*family(version), _payload(_NETWORK_HEADER, offset, 1), _compare(_EQ, b"\xff"))


def set_link_ttl(version: int) -> Clause:
    """`ip ttl set 255` or `ip6 hoplimit set 255`, which the receiver can check (`from_the_link`)."""
    if version == 6:
        return (*family(6), expression("immediate", dreg=1, data=_value(b"\xff")), _write(_HOP_LIMIT, 1))
    bits = expression("bitwise", sreg=1, dreg=1, len=2, mask=_value(b"\x00\xff"), xor=_value(b"\xff\x00"))
    write = _write(_TTL_AND_PROTOCOL, 2, csum_type=_SUM_OF_HEADER, csum_offset=_HEADER_CHECKSUM)
    return (*family(4), _payload(_NETWORK_HEADER, _TTL_AND_PROTOCOL, 2), bits, write)


def clear_mark() -> Clause:
    """`meta mark set 0`."""
    return (expression("immediate", dreg=1, data=_value(bytes(4))), *set_meta_mark())


def set_maxseg() -> Clause:
    """`tcp option maxseg size set` from the register; the kernel never raises it."""
    return (expression("exthdr", sreg=1, type=2, offset=2, len=2, op=1),)


def mark_and_oifname() -> Clause:
    """Load `meta mark . oifname`."""
    return (*meta("mark"), *meta("oifname", _SECOND_WORD))


def ct_mark_and_iifname() -> Clause:
    """Load `ct mark . iifname`."""
    return (*ct("mark"), *meta("iifname", _SECOND_WORD))


def ct_mark_and_mark() -> Clause:
    """Load `ct mark . meta mark`."""
    return (*ct("mark"), *meta("mark", _SECOND_WORD))


def with_bit(bit: int) -> Clause:
    """Set a bit of the loaded number (4 bytes, host order)."""
    mask, xor = struct.pack("=I", 0xFFFFFFFF ^ bit), struct.pack("=I", bit)
    return (expression("bitwise", sreg=1, dreg=1, len=4, mask=_value(mask), xor=_value(xor)),)


def from_where_it_is_routed(so: bool = True) -> Clause:
    """`fib saddr . iif oif exists`: answers to this source would leave by the interface that the packet
    came in by (RFC 3704, strict).

    `so=False`: `missing`.
    """
    flags = _FIB_SADDR | _FIB_IIF | _FIB_PRESENT
    return (expression("fib", dreg=1, result=_FIB_OIF, flags=flags), _compare(_EQ, struct.pack("=I", so)))


def without_ct_mark() -> Clause:
    """`ct mark 0`."""
    return (*ct("mark"), _compare(_EQ, struct.pack("=I", 0)))


def neighbour_discovery() -> Clause:
    """`icmpv6 type 135-136`: neighbour solicitation and advertisement (RFC 4861), which connection
    tracking does not track.
    """
    first, last = bytes([_NEIGHBOUR_SOLICITATION]), bytes([_NEIGHBOUR_ADVERTISEMENT])
    return (
        *meta("l4proto"),
        _compare(_EQ, _ICMPV6),
        _payload(_TRANSPORT_HEADER, 0, 1),
        _compare(_GTE, first),
        _compare(_LTE, last),
    )


def mark_and_destination(version: int) -> Clause:
    """Load `meta mark . ip daddr` for a map with intervals, which wants numbers in network order."""
    _, offset, length = _ADDRESS[version]
    return (
        *family(version),
        *meta("mark"),
        _big_endian(),
        _payload(_NETWORK_HEADER, offset, length, _SECOND_WORD),
    )


def mark_and_source(version: int, intervals: bool = True) -> Clause:
    """Load `meta mark . ip saddr`, for a set with intervals or without."""
    offset, _, length = _ADDRESS[version]
    order = (_big_endian(),) if intervals else ()
    return (*family(version), *meta("mark"), *order, _payload(_NETWORK_HEADER, offset, length, _SECOND_WORD))


def mark_source_and_port(version: int, intervals: bool = True) -> Clause:
    """Load `meta mark . ip saddr . meta l4proto . th dport`, for a set with intervals or without. A packet
    without ports finds nothing.
    """
    protocol = _SECOND_WORD + _ADDRESS[version][2] // 4
    return (
        *mark_and_source(version, intervals),
        *meta("l4proto", protocol),
        _payload(_TRANSPORT_HEADER, 2, 2, protocol + 1),
    )


def oifname(name: str) -> Clause:
    """`oifname NAME`."""
    return (*meta("oifname"), _compare(_EQ, name.encode().ljust(16, b"\x00")))


def dnat_prefix(version: int) -> Clause:
    """`dnat prefix to` the network in the register (first and last address), keeping the host part."""
    upper = _SECOND_WORD if version == 4 else 2
    registers = {"reg_addr_min": 1, "reg_addr_max": upper}
    return (expression("nat", type=1, family=_NFPROTO[version], **registers, flags=_NAT_PREFIX),)


def redirect() -> Clause:
    """`redirect to :PORT` from the register."""
    return (expression("redir", reg_proto_min=1, flags=_NAT_PORTS),)


def snat(version: int) -> Clause:
    """`snat ip to` (or `snat ip6 to`) the address in the register."""
    return (expression("nat", type=0, family=_NFPROTO[version], reg_addr_min=1),)


def masquerade() -> Clause:
    """`masquerade`."""
    return (expression("masq"),)


def counter() -> Clause:
    """`counter`."""
    return (expression("counter", bytes=0, packets=0),)


def reject() -> Clause:
    """`reject with icmpx admin-prohibited`: a new connection fails at once, an established one survives (a
    reset would kill it).
    """
    return (expression("reject", type=2, icmp_code=3),)


def unreachable() -> Clause:
    """`reject with icmp net-unreachable` (`icmpv6 no-route`), in a table for one IP version."""
    return (expression("reject", type=0, icmp_code=0),)


def tcp_connection(version: int) -> Clause:
    """Load `ip saddr . ip daddr . tcp sport . tcp dport`, in a table for this IP version."""
    offset, _, length = _ADDRESS[version]
    ports = _FIRST_WORD + 2 * length // 4
    return (
        *tcp(),
        _payload(_NETWORK_HEADER, offset, 2 * length),
        _payload(_TRANSPORT_HEADER, 0, 2, ports),
        _payload(_TRANSPORT_HEADER, 2, 2, ports + 1),
    )


def with_mark(mark: int) -> Clause:
    """`meta mark MARK`."""
    return (*meta("mark"), _compare(_EQ, struct.pack("=I", mark)))


def copied(copies: int, mark: int, version: int) -> Clause:
    """`dup to ip daddr`, so often, in a table for this IP version: copies with this packet mark start over
    at the output hook. The packet keeps its own.
    """
    _, offset, length = _ADDRESS[version]
    return (
        *meta("mark", _LAST_WORD),
        expression("immediate", dreg=1, data=_value(struct.pack("=I", mark))),
        *set_meta_mark(),
        _payload(_NETWORK_HEADER, offset, length),
        *(expression("dup", sreg_addr=1),) * copies,
        expression("meta", key=_META["mark"], sreg=_LAST_WORD),
    )


def reset() -> Clause:
    """`reject with tcp reset`."""
    return (expression("reject", type=1),)


def jump(chain: str) -> Clause:
    """`jump CHAIN`."""
    return _verdict(_JUMP, text_attribute(_VERDICT_CHAIN, chain))


def leave() -> Clause:
    """`return`: the packet goes on behind the jump."""
    return _verdict(_RETURN)


def drop() -> Clause:
    """`drop`."""
    return _verdict(0)


def accept() -> Clause:
    """`accept`: ends this chain only; other tables still have their say."""
    return _verdict(1)


def _verdict(code: int, chain: bytes = b"") -> Clause:
    verdict = attribute(_VERDICT_CODE, struct.pack(">i", code)) + chain
    return (expression("immediate", dreg=0, data=attribute(_VERDICT | NESTED, verdict)),)


def _value(data: bytes) -> bytes:
    return attribute(_VALUE, data)


def _compare(operator: int, data: bytes) -> Expression:
    return expression("cmp", sreg=1, op=operator, data=_value(data))


def _any_bit(bits: int) -> Clause:
    mask = expression(
        "bitwise", sreg=1, dreg=1, len=4, mask=_value(struct.pack("=I", bits)), xor=_value(bytes(4))
    )
    return (mask, _compare(_NEQ, bytes(4)))


def _payload(base: int, offset: int, length: int, register: int = 1) -> Expression:
    return expression("payload", dreg=register, base=base, offset=offset, len=length)


def _write(offset: int, length: int, **checksum: int) -> Expression:
    return expression("payload", base=_NETWORK_HEADER, offset=offset, len=length, sreg=1, **checksum)


def _big_endian() -> Expression:
    return expression("byteorder", sreg=1, dreg=1, op=1, len=4, size=4)
