"""Messages of nftables (linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h): what all of them have in
common, and those that make our table.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from common.netlink import ACK, APPEND, CREATE, NESTED, NetlinkRequest, attribute, text_attribute
from supervisor.kernel.nft.expressions import Expression
from supervisor.kernel.nft.ruleset import TABLE, Chain, Ruleset
from supervisor.kernel.nft.sets import Set

INET, IPV4, IPV6 = 1, 2, 10  # NFPROTO_*
OWNER, PERSIST = 2, 4  # NFT_TABLE_F_*; never the first without the second: the table would vanish with us
HEADER_BYTES = 4  # struct nfgenmsg: what stands before the attributes

# Messages: NFT_MSG_*.
NEW_TABLE, GET_TABLE, DELETE_TABLE, NEW_CHAIN, GET_CHAIN, NEW_RULE, GET_RULE = 0, 1, 2, 3, 4, 6, 7
NEW_SET, GET_SET, NEW_ELEMENTS, GET_ELEMENTS, DELETE_ELEMENTS = 9, 10, 12, 13, 14
NEW_GENERATION, GET_GENERATION = 15, 16
# Attributes: NFTA_TABLE_*, NFTA_CHAIN_*, NFTA_HOOK_*, NFTA_RULE_*, NFTA_GEN_*.
TABLE_NAME, TABLE_FLAGS, TABLE_USERDATA, TABLE_OWNER = 1, 2, 6, 7
CHAIN_TABLE, CHAIN_HANDLE, CHAIN_NAME, CHAIN_HOOK, CHAIN_POLICY, CHAIN_TYPE = 1, 2, 3, 4, 5, 7
HOOK_NUMBER, HOOK_PRIORITY = 1, 2
RULE_TABLE, RULE_CHAIN, RULE_HANDLE, RULE_EXPRESSIONS = 1, 2, 3, 4
EXPRESSION_NAME, EXPRESSION_DATA = 1, 2
LIST_ELEMENT = 1  # NFTA_LIST_ELEM
# NFTA_SET_*, NFTA_SET_DESC_*, NFTA_SET_ELEM_LIST_*.
SET_TABLE, SET_NAME, SET_FLAGS, SET_KEY_TYPE, SET_KEY_LENGTH, SET_DATA_TYPE, SET_DATA_LENGTH = (
    1,
    2,
    3,
    4,
    5,
    6,
    7,
)
SET_DESCRIPTION, SET_ID, SET_USERDATA, SET_EXPRESSION = 9, 10, 13, 17
ELEMENTS_TABLE, ELEMENTS_SET, ELEMENTS_LIST = 1, 2, 3

POLICY_ACCEPT = 1

_SINCE, _MOMENT = ", closed since ", "%Y-%m-%dT%H:%M:%SZ"  # in the comment of the table

_NFTABLES = 10  # NFNL_SUBSYS_NFTABLES, the upper byte of the type of a message
_BEGIN, _END = 0x10, 0x11  # NFNL_MSG_BATCH_*
_DESC_SIZE, _DESC_CONCAT, _FIELD_LENGTH = 1, 2, 1  # NFTA_SET_DESC_*, NFTA_SET_FIELD_LEN
_INTERVAL, _MAP, _TIMEOUT, _DYNAMIC, _CONCATENATED = 4, 8, 0x10, 0x20, 0x80  # NFT_SET_*
_TYPE_BITS = 6  # of each part in nft's number of a concatenated type
_HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}  # NF_INET_*


def nft_request(kind: int, flags: int, body: bytes = b"", family: int = INET) -> NetlinkRequest:
    """A message to nftables."""
    return NetlinkRequest(_NFTABLES << 8 | kind, flags, struct.pack("=BBH", family, 0, 0) + body)


def nft_kind(kind: int) -> int:
    """The number of a message of nftables without its subsystem."""
    return kind & 0xFF


def transaction(requests: Sequence[NetlinkRequest]) -> list[NetlinkRequest]:
    """All of them or nothing. The first message of all is answered when the transaction as such is refused;
    the last one of the requests is confirmed when all is done.
    """
    last = requests[-1]
    edge = struct.pack(">BBH", 0, 0, _NFTABLES)
    return [
        NetlinkRequest(_BEGIN, 0, edge),
        *requests[:-1],
        last._replace(flags=last.flags | ACK),
        NetlinkRequest(_END, 0, edge),
    ]


def elements_of(name: str, table: str = TABLE) -> bytes:
    """The beginning of a message about elements of a set of ours."""
    return text_attribute(ELEMENTS_TABLE, table) + text_attribute(ELEMENTS_SET, name)


def table_removal(table: str = TABLE, family: int = INET, flags: int = 0) -> list[NetlinkRequest]:
    """A table of ours is gone, whether or not it was there, orphaned or of another version."""
    name = text_attribute(TABLE_NAME, table)
    return [new_table(table, family, flags), nft_request(DELETE_TABLE, 0, name, family)]


def new_table(table: str, family: int, flags: int = 0) -> NetlinkRequest:
    """A table, where there is none yet."""
    body = text_attribute(TABLE_NAME, table) + (_number(TABLE_FLAGS, flags) if flags else b"")
    return nft_request(NEW_TABLE, CREATE, body, family)


def table_creation(ruleset: Ruleset, flags: int, since: float) -> Iterator[NetlinkRequest]:
    """Our table with its sets, chains and rules. Its comment says since when it closes the host (seconds
    since the epoch), which so is known as long as the table stands, and no longer.
    """
    moment = datetime.fromtimestamp(since, UTC).strftime(_MOMENT)
    comment = f"{ruleset.comment}{_SINCE}{moment}\0".encode()
    yield nft_request(
        NEW_TABLE,
        CREATE,
        text_attribute(TABLE_NAME, TABLE)
        + _number(TABLE_FLAGS, flags)
        + attribute(TABLE_USERDATA, bytes([0, len(comment)]) + comment),
    )
    yield from table_contents(ruleset.sets, ruleset.chains)


def table_contents(
    sets: Iterable[Set], chains: Iterable[Chain], table: str = TABLE, family: int = INET
) -> Iterator[NetlinkRequest]:
    """Sets, chains and rules of a new table."""
    for number, described in enumerate(sets, 1):
        yield nft_request(NEW_SET, CREATE, _set(described, number, table), family)
    for chain in chains:
        yield nft_request(NEW_CHAIN, CREATE, _chain(chain, table), family)
        names = text_attribute(RULE_TABLE, table) + text_attribute(RULE_CHAIN, chain.name)
        for clause in chain.rules:
            yield nft_request(NEW_RULE, CREATE | APPEND, names + expressions(*clause), family)


def closed_since(userdata: bytes) -> float | None:
    """What a table's comment says of the moment since which it closes the host."""
    said = userdata.decode(errors="replace").rstrip("\0").partition(_SINCE)[2]
    try:
        return datetime.strptime(said, _MOMENT).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def expressions(*of_rule: Expression) -> bytes:
    """The expressions of a rule."""
    elements = b"".join(attribute(LIST_ELEMENT | NESTED, expression) for expression in of_rule)
    return attribute(RULE_EXPRESSIONS | NESTED, elements)


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value))


def _set(described: Set, number: int, table: str) -> bytes:
    flags = (
        (_INTERVAL if described.interval else 0)
        | (_MAP if described.value else 0)
        | (_TIMEOUT if described.timeout else 0)
        | (_DYNAMIC if described.dynamic else 0)
        | (_CONCATENATED if described.interval and len(described.key) > 1 else 0)
    )
    kind = length = 0
    for part in described.key:
        kind = kind << _TYPE_BITS | part.number
        length += -(-part.length // 4) * 4 if len(described.key) > 1 else part.length
    body = text_attribute(SET_TABLE, table) + text_attribute(SET_NAME, described.name)
    body += _number(SET_FLAGS, flags) + _number(SET_ID, number)
    body += _number(SET_KEY_TYPE, kind) + _number(SET_KEY_LENGTH, length)
    if described.value is not None:
        size = described.value.length * (2 if described.value_interval else 1)
        body += _number(SET_DATA_TYPE, described.value.number) + _number(SET_DATA_LENGTH, size)
    if flags & _CONCATENATED:
        fields = (
            attribute(LIST_ELEMENT | NESTED, _number(_FIELD_LENGTH, part.length)) for part in described.key
        )
        body += attribute(SET_DESCRIPTION | NESTED, attribute(_DESC_CONCAT | NESTED, b"".join(fields)))
    if described.size:
        body += attribute(SET_DESCRIPTION | NESTED, _number(_DESC_SIZE, described.size))
    if described.counter:
        counter = text_attribute(EXPRESSION_NAME, "counter") + attribute(EXPRESSION_DATA | NESTED, b"")
        body += attribute(SET_EXPRESSION | NESTED, counter)
    return body + attribute(SET_USERDATA, described.userdata)


def _chain(chain: Chain, table: str) -> bytes:
    names = text_attribute(CHAIN_TABLE, table) + text_attribute(CHAIN_NAME, chain.name)
    if not chain.hook:
        return names
    priority = attribute(HOOK_PRIORITY, struct.pack(">i", chain.priority))
    hook = attribute(CHAIN_HOOK | NESTED, _number(HOOK_NUMBER, _HOOKS[chain.hook]) + priority)
    policy = _number(CHAIN_POLICY, POLICY_ACCEPT)
    return names + hook + policy + text_attribute(CHAIN_TYPE, chain.type)
