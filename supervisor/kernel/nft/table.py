"""Our nftables table in the kernel: read it, and change it in one atomic transaction.

pyroute2 reads, and packs what makes the table; the transaction is ours, because its `AsyncNFTables` sends
each object in a transaction of its own and waits for ever without CAP_NET_ADMIN (the kernel answers only the
message that begins a batch). The socket that writes owns the table while it is open (where the kernel can do
that), so nobody else can change it; the table outlives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pyroute2 import AsyncNFTSocket, NetlinkError
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES, nfgen_msg
from pyroute2.netlink.nfnetlink import nftsocket as nft

from supervisor.core.network.layout import Change, Element, Op, Table
from supervisor.kernel.errors import TIMEOUT
from supervisor.kernel.netlink.codec import NESTED, attribute
from supervisor.kernel.netlink.socket import ACK, APPEND, CREATE, DUMP, REQUEST, Exchange, NetlinkRequest
from supervisor.kernel.nft.elements import pack, unpack
from supervisor.kernel.nft.ruleset import TABLE, Chain, Ruleset, Set
from supervisor.kernel.offload import apart

OWNER, PERSIST = 2, 4  # flags of a table; never the first without the second: the table would vanish with us
INET = 1
_NETLINK_NETFILTER = 12
_SUBSYSTEM = NFNL_SUBSYS_NFTABLES << 8
_BEGIN, _END = 0x10, 0x11
_HEADER_SIZE = 16  # bytes of struct nlmsghdr
_SO_RCVBUFFORCE = 33
_BUFFER = 8 << 20  # bytes; a transaction is one datagram
_ELEMENT = 50  # bytes of an element, about
_LIST_SIZE = 400  # elements in one attribute, which holds 64 KiB
_HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
_ACCEPT = 1
_TYPE_BITS = 6  # of each part in the number of a concatenated type


class _ElementList(nfgen_msg):  # type: ignore[misc]
    """Elements packed by hand. (A subclass of pyroute2's class would inherit its compiled attribute map.)"""

    nla_map = (
        ("NFTA_SET_ELEM_LIST_UNSPEC", "none"),
        ("NFTA_SET_ELEM_LIST_TABLE", "asciiz"),
        ("NFTA_SET_ELEM_LIST_SET", "asciiz"),
        ("NFTA_SET_ELEM_LIST_ELEMENTS", "cdata"),
    )


class _Set(nfgen_msg):  # type: ignore[misc]
    """A set whose description and user data are packed by hand."""

    nla_map = (
        ("NFTA_SET_UNSPEC", "none"),
        ("NFTA_SET_TABLE", "asciiz"),
        ("NFTA_SET_NAME", "asciiz"),
        ("NFTA_SET_FLAGS", "be32"),
        ("NFTA_SET_KEY_TYPE", "be32"),
        ("NFTA_SET_KEY_LEN", "be32"),
        ("NFTA_SET_DATA_TYPE", "be32"),
        ("NFTA_SET_DATA_LEN", "be32"),
        ("NFTA_SET_POLICY", "be32"),
        ("NFTA_SET_DESC", "cdata"),
        ("NFTA_SET_ID", "be32"),
        ("NFTA_SET_TIMEOUT", "be64"),
        ("NFTA_SET_GC_INTERVAL", "be32"),
        ("NFTA_SET_USERDATA", "cdata"),
        ("NFTA_SET_PAD", "none"),
        ("NFTA_SET_OBJ_TYPE", "be32"),
        ("NFTA_SET_HANDLE", "be64"),
        ("NFTA_SET_EXPR", "cdata"),
    )


class _RuleHead(nfgen_msg):  # type: ignore[misc]
    """What tells rules apart, without their expressions."""

    nla_map = (
        ("NFTA_RULE_UNSPEC", "none"),
        ("NFTA_RULE_TABLE", "asciiz"),
        ("NFTA_RULE_CHAIN", "asciiz"),
        ("NFTA_RULE_HANDLE", "be64"),
        ("NFTA_RULE_EXPRESSIONS", "none"),
    )


class _TableHead(nfgen_msg):  # type: ignore[misc]
    """A table."""

    nla_map = (
        ("NFTA_TABLE_UNSPEC", "none"),
        ("NFTA_TABLE_NAME", "asciiz"),
        ("NFTA_TABLE_FLAGS", "be32"),
        ("NFTA_TABLE_USE", "be32"),
        ("NFTA_TABLE_HANDLE", "be64"),
        ("NFTA_TABLE_PAD", "hex"),
        ("NFTA_TABLE_USERDATA", "cdata"),
        ("NFTA_TABLE_OWNER", "be32"),
    )


@dataclass(frozen=True, slots=True)
class TableState:
    """What stands in the kernel."""

    present: bool = False  # a table of that name is there
    intact: bool = False  # with our sets, chains and rules, exactly these
    elements: frozenset[Element] = frozenset()


class Nftables:
    """The owner of the table. Errors are `NetlinkError` (with the kernel's errno) and TimeoutError."""

    def __init__(self, flags: int = OWNER | PERSIST) -> None:
        self._flags = flags
        self._ruleset = Ruleset.build()
        self._sets = {described.name: described for described in self._ruleset.sets}
        self._built: tuple[object, ...] | None = None
        self._exchange = Exchange(_NETLINK_NETFILTER, _BUFFER)
        self._socket: Any = None  # for reading
        self._one = asyncio.Lock()  # the kernel refuses a second dump on a socket

    async def open(self) -> None:
        """Open the sockets, in the network namespace of the calling thread."""
        self._exchange.open()
        self._socket = AsyncNFTSocket()
        await self._socket.setup_endpoint()
        with contextlib.suppress(PermissionError):
            self._socket.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        for kind, head in (
            (nft.NFT_MSG_NEWRULE, _RuleHead),
            (nft.NFT_MSG_NEWSETELEM, _ElementList),
            (nft.NFT_MSG_NEWTABLE, _TableHead),
            (nft.NFT_MSG_NEWSET, _Set),
        ):
            self._socket.register_policy({_SUBSYSTEM | kind: head})

    @property
    def port(self) -> int:
        """The netlink address of the socket that writes: events that carry it are our own doing."""
        return self._exchange.port

    def close(self) -> None:
        """Close the sockets. The table stays, without an owner."""
        self._exchange.close()
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    async def occupied(self) -> bool:
        """Does another running process own the table; the kernel takes the owner's mark off when that one
        ends.
        """
        return any(
            table.get_attr("NFTA_TABLE_OWNER") not in (None, self.port) for table in await self._tables()
        )

    async def read(self) -> TableState:
        """What stands now."""
        tables = await self._tables()
        if not tables or self._ruleset.comment.encode() not in (
            tables[0].get_attr("NFTA_TABLE_USERDATA") or b""
        ):
            return TableState(present=bool(tables))
        shape = await self._shape()
        intact = shape == self._built if self._built is not None else _counts(shape) == self._expected()
        names = {
            message.get_attr("NFTA_SET_NAME")
            for message in await self._dump(_Set, nft.NFT_MSG_GETSET, "NFTA_SET_TABLE")
        }
        elements: list[Element] = []
        for described in self._ruleset.sets:
            if described.name in names and not described.dynamic:
                elements.extend(await self._elements(described))
        return TableState(True, intact and names >= self._sets.keys(), frozenset(elements))

    async def commit(self, changes: Sequence[Change]) -> None:
        """Carry out what the changes say about the table and its elements: all of it or nothing."""
        build, remove = Change(Op.ADD, Table()) in changes, Change(Op.REMOVE, Table()) in changes
        elements = await apart(len(changes), self._element_messages, changes)
        messages = [
            *(self._emptied() if build or remove else []),
            *(self._whole() if build else []),
            *elements,
        ]
        try:
            await self._transaction(messages)
        except NetlinkError as error:
            if not build or not self._flags or error.code not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            # A kernel before 6.9 knows no owner that the table outlives: then without any.
            self._flags = 0
            await self.commit(changes)
            return
        if build or remove:
            self._built = await self._shape() if build else None

    # --- messages
    # ------------------------------------------------------------------------------------------------------

    def _emptied(self) -> list[NetlinkRequest]:
        """The table is gone, whether or not it was there, orphaned or of another version."""
        name = [["NFTA_TABLE_NAME", TABLE]]
        return [
            _message(nft.nft_table_msg, nft.NFT_MSG_NEWTABLE, CREATE, name),
            _message(nft.nft_table_msg, nft.NFT_MSG_DELTABLE, 0, name),
        ]

    def _whole(self) -> Iterator[NetlinkRequest]:
        comment = self._ruleset.comment.encode() + b"\x00"
        yield _message(
            _TableHead,
            nft.NFT_MSG_NEWTABLE,
            CREATE,
            [
                ["NFTA_TABLE_NAME", TABLE],
                ["NFTA_TABLE_FLAGS", self._flags],
                ["NFTA_TABLE_USERDATA", bytes([0, len(comment)]) + comment],
            ],
        )
        for number, described in enumerate(self._ruleset.sets, 1):
            yield _message(_Set, nft.NFT_MSG_NEWSET, CREATE, _set_attributes(described, number))
        for chain in self._ruleset.chains:
            yield _message(nft.nft_chain_msg, nft.NFT_MSG_NEWCHAIN, CREATE, _chain_attributes(chain))
            for clause in chain.rules:
                attributes: list[list[Any]] = [
                    ["NFTA_RULE_TABLE", TABLE],
                    ["NFTA_RULE_CHAIN", chain.name],
                    ["NFTA_RULE_EXPRESSIONS", list(clause)],
                ]
                yield _message(nft.nft_rule_msg, nft.NFT_MSG_NEWRULE, CREATE | APPEND, attributes)

    def _element_messages(self, changes: Iterable[Change]) -> list[NetlinkRequest]:
        """Removals first: intervals of the new elements may overlap old ones."""
        messages = []
        grouped: dict[tuple[bool, str], list[Element]] = {}
        for change in changes:
            if isinstance(change.item, Element):
                grouped.setdefault((change.op is Op.ADD, change.item.set), []).append(change.item)
        for (add, name), elements in sorted(grouped.items(), key=lambda entry: entry[0]):
            packed = pack(self._sets[name], elements)
            for start in range(0, len(packed), _LIST_SIZE):
                kind = nft.NFT_MSG_NEWSETELEM if add else nft.NFT_MSG_DELSETELEM
                body = _elements_of(name) + attribute(
                    3 | NESTED, b"".join(packed[start : start + _LIST_SIZE])
                )
                messages.append(NetlinkRequest(_SUBSYSTEM | kind, CREATE if add else 0, body))
        return messages

    async def _tables(self) -> list[Any]:
        return [
            table
            for table in await self._dump(_TableHead, nft.NFT_MSG_GETTABLE)
            if table.get_attr("NFTA_TABLE_NAME") == TABLE
        ]

    # --- requests
    # ------------------------------------------------------------------------------------------------------

    async def _transaction(self, messages: Sequence[NetlinkRequest]) -> None:
        """The last message is confirmed when all is done; each one that fails is told, and one that keeps
        all from being done the first.
        """
        batch = [
            _edge(_BEGIN),
            *messages[:-1],
            messages[-1]._replace(flags=messages[-1].flags | ACK),
            _edge(_END),
        ]
        said = await self._exchange.talk(batch, [0, len(messages)])
        failure = next((error for error in said if error is not None), None)
        if failure is not None:
            raise failure

    async def _dump(
        self, cls: type[Any], kind: int, table_attribute: str | None = None, *attributes: list[Any]
    ) -> list[Any]:
        message = cls()
        message["nfgen_family"] = INET
        message["attrs"] = [*([[table_attribute, TABLE]] if table_attribute else []), *attributes]
        async with self._one, asyncio.timeout(TIMEOUT):
            return [
                m async for m in await self._socket.nlm_request(message, _SUBSYSTEM | kind, REQUEST | DUMP)
            ]

    async def _shape(self) -> tuple[object, ...]:
        """Chains with their policy, rules with their handles: a rule that was put in, taken out or
        replaced changes it.
        """
        chains = [
            (
                chain.get_attr("NFTA_CHAIN_NAME"),
                chain.get_attr("NFTA_CHAIN_POLICY"),
                chain.get_attr("NFTA_CHAIN_HANDLE"),
            )
            for chain in await self._dump(nft.nft_chain_msg, nft.NFT_MSG_GETCHAIN)
            if chain.get_attr("NFTA_CHAIN_TABLE") == TABLE
        ]
        rules = [
            (rule.get_attr("NFTA_RULE_CHAIN"), rule.get_attr("NFTA_RULE_HANDLE"))
            for rule in await self._dump(_RuleHead, nft.NFT_MSG_GETRULE, "NFTA_RULE_TABLE")
        ]
        return tuple(sorted(chains)), tuple(rules)

    def _expected(self) -> object:
        return sorted(
            (chain.name, _ACCEPT if chain.hook else None, len(chain.rules)) for chain in self._ruleset.chains
        )

    async def _elements(self, described: Set) -> Iterable[Element]:
        name = ["NFTA_SET_ELEM_LIST_SET", described.name]
        messages = await self._dump(_ElementList, nft.NFT_MSG_GETSETELEM, "NFTA_SET_ELEM_LIST_TABLE", name)
        data = [m.get_attr("NFTA_SET_ELEM_LIST_ELEMENTS") or b"" for m in messages]
        return await apart(sum(map(len, data)) // _ELEMENT, lambda: list(unpack(described, data)))


def _message(cls: type[Any], kind: int, flags: int, attributes: list[list[Any]]) -> NetlinkRequest:
    message = cls()
    message["attrs"] = attributes
    message["nfgen_family"] = INET
    message.encode()
    return NetlinkRequest(_SUBSYSTEM | kind, flags, bytes(message.data[_HEADER_SIZE:]))


def _elements_of(name: str) -> bytes:
    """The beginning of a message about elements of a set: struct nfgenmsg, NFTA_SET_ELEM_LIST_TABLE and
    _SET.
    """
    return (
        bytes([INET, 0, 0, 0])
        + attribute(1, TABLE.encode() + b"\x00")
        + attribute(2, name.encode() + b"\x00")
    )


def _edge(kind: int) -> NetlinkRequest:
    return NetlinkRequest(kind, 0, struct.pack(">BBH", 0, 0, NFNL_SUBSYS_NFTABLES))


def _set_attributes(described: Set, number: int) -> list[list[Any]]:
    interval, map_, dynamic, concatenated = 4, 8, 0x20, 0x80
    flags = (
        (interval if described.interval else 0)
        | (map_ if described.value else 0)
        | (dynamic if described.dynamic else 0)
    )
    kind = length = 0
    for part in described.key:
        kind = kind << _TYPE_BITS | part.number
        length += -(-part.length // 4) * 4 if len(described.key) > 1 else part.length
    attributes: list[list[Any]] = [
        ["NFTA_SET_TABLE", TABLE],
        ["NFTA_SET_NAME", described.name],
        ["NFTA_SET_KEY_TYPE", kind],
        ["NFTA_SET_KEY_LEN", length],
        ["NFTA_SET_ID", number],
    ]
    if described.value is not None:
        size = described.value.length * (2 if described.value_interval else 1)
        attributes += [["NFTA_SET_DATA_TYPE", described.value.number], ["NFTA_SET_DATA_LEN", size]]
    if described.interval and len(described.key) > 1:
        flags |= concatenated
        attributes.append(["NFTA_SET_DESC", _description(described)])
    if described.size:
        attributes.append(["NFTA_SET_DESC", attribute(1, struct.pack(">I", described.size))])
    if described.counter:
        attributes.append(["NFTA_SET_EXPR", attribute(1, b"counter\x00") + attribute(2 | NESTED, b"")])
    return [*attributes, ["NFTA_SET_FLAGS", flags], ["NFTA_SET_USERDATA", described.userdata]]


def _description(described: Set) -> bytes:
    """The lengths of the parts of a concatenation: NFTA_SET_DESC_CONCAT > NFTA_LIST_ELEM >
    NFTA_SET_FIELD_LEN.
    """
    fields = (attribute(1 | NESTED, attribute(1, struct.pack(">I", part.length))) for part in described.key)
    return attribute(2 | NESTED, b"".join(fields))


def _chain_attributes(chain: Chain) -> list[list[Any]]:
    names = [["NFTA_CHAIN_TABLE", TABLE], ["NFTA_CHAIN_NAME", chain.name]]
    if not chain.hook:
        return names
    hook = {"attrs": [["NFTA_HOOK_HOOKNUM", _HOOKS[chain.hook]], ["NFTA_HOOK_PRIORITY", chain.priority]]}
    return [
        *names,
        ["NFTA_CHAIN_HOOK", hook],
        ["NFTA_CHAIN_POLICY", _ACCEPT],
        ["NFTA_CHAIN_TYPE", chain.type],
    ]


def _counts(shape: tuple[Any, ...]) -> object:
    chains, rules = shape
    return sorted((name, policy, sum(rule[0] == name for rule in rules)) for name, policy, _ in chains)
