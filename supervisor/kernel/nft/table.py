"""Our nftables table in the kernel: read it, and change it in one atomic transaction.

The socket that writes owns the table while it is open (where the kernel can do that), so nobody else can
change it; the table outlives it.
"""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from common.netlink import (
    CREATE,
    DUMP,
    NESTED,
    NETFILTER,
    NetlinkRequest,
    attribute,
    attributes,
    text,
    text_attribute,
)
from supervisor.core.network.changes import Change, Op
from supervisor.core.network.layout import Element, Table
from supervisor.kernel.netlink.socket import AsyncNetlink
from supervisor.kernel.nft import messages as nft
from supervisor.kernel.nft.elements import pack, pack_for, pack_lasting, unpack
from supervisor.kernel.nft.messages import OWNER, PERSIST, elements_of, nft_request
from supervisor.kernel.nft.ruleset import TABLE, Ruleset
from supervisor.kernel.nft.sets import PERMITTED, Set
from supervisor.kernel.offload import run_offloaded

_BUFFER_BYTES = 8 << 20  # a transaction is one datagram
_ELEMENT_BYTES = 50  # of an element, about
_LIST_ELEMENTS = 400  # elements in one attribute, which holds 64 KiB

Attributes = dict[int, bytes]


@dataclass(frozen=True, slots=True)
class TableState:
    """What stands in the kernel."""

    present: bool = False  # a table of that name is there
    current: bool = False  # made by this version
    intact: bool = False  # with our sets, chains and rules, exactly these
    elements: frozenset[Element] = frozenset()


@dataclass(frozen=True, slots=True)
class _Shape:
    """Chains with their policy, rules with their handles: a rule that was put in, taken out or replaced
    changes it.
    """

    chains: tuple[tuple[str, bytes, bytes], ...]  # name, policy (none: no base chain), handle
    rules: tuple[tuple[str, bytes], ...]  # chain, handle

    def counts(self) -> list[tuple[str, bool, int]]:
        """Of each chain: whether it is a base chain that accepts, and how many rules it has."""
        rules = Counter(chain for chain, _ in self.rules)
        accepts = nft.POLICY_ACCEPT.to_bytes(4, "big")
        return sorted((name, policy == accepts, rules[name]) for name, policy, _ in self.chains)


class Nftables:
    """The owner of the table. Errors are OSError (with the kernel's errno), TimeoutError among them."""

    def __init__(self, flags: int = OWNER | PERSIST) -> None:
        self._flags = flags
        self._ruleset = Ruleset.build()
        self._sets = {described.name: described for described in self._ruleset.sets}
        self._built: _Shape | None = None
        self._permitted: Mapping[int, float] = {}  # lanes: until when (monotonic seconds)
        self._admitted: dict[Element, float] = {}  # let in by person: until when (monotonic seconds)
        self._sure_of_people = True  # the kernel has said yes to what `admit` said last
        self._closed_since: float | None = None
        # By set: what was last read, as the kernel said it and as elements. It hardly ever changes.
        self._known: dict[str, tuple[list[bytes], list[Element]]] = {}
        self._owner = AsyncNetlink(NETFILTER, _BUFFER_BYTES)  # writes
        self._reader = AsyncNetlink(NETFILTER, _BUFFER_BYTES)  # so that a dump keeps no transaction waiting

    def open(self) -> None:
        """Open the sockets, in the network namespace of the calling thread."""
        self._owner.open()
        self._reader.open()

    @property
    def port(self) -> int:
        """The netlink address of the socket that writes: notifications that carry it are our own doing."""
        return self._owner.port

    def close(self) -> None:
        """Close the sockets. The table stays, without an owner."""
        self._owner.close()
        self._reader.close()

    @property
    def closed_since(self) -> float | None:
        """Seconds since the epoch at which the table was made that stands without a gap since then, as far
        as we have read; it stands longer than any daemon. None: there is none, or it does not say.
        """
        return self._closed_since

    async def occupied(self) -> bool:
        """Does another running process own the table; the kernel takes the owner's mark off when that one
        ends.
        """
        tables = await self._tables()
        owners = {int.from_bytes(table.get(nft.TABLE_OWNER, b""), "big") for table in tables}
        return not owners <= {0, self.port}

    async def read(self) -> TableState:
        """What stands now."""
        tables = await self._tables()
        comment = self._ruleset.comment.encode()
        if not tables or comment not in tables[0].get(nft.TABLE_USERDATA, b""):
            return TableState(present=bool(tables))
        shape = await self._shape()
        intact = shape.counts() == self._expected() if self._built is None else shape == self._built
        sets = await self._dump(nft.GET_SET, text_attribute(nft.SET_TABLE, TABLE))
        names = {text(found[nft.SET_NAME]) for found in sets}
        elements: list[Element] = []
        for described in self._ruleset.sets:
            if described.name in names and described.planned:
                elements.extend(await self._elements(described))
        return TableState(True, True, intact and names >= self._sets.keys(), frozenset(elements))

    def expect(self, ends: Mapping[int, float]) -> None:
        """What `permit` says, for a table that is still to be made."""
        self._permitted = ends

    async def permit(self, ends: Mapping[int, float]) -> None:
        """Exclusive clients of these lanes may send until these moments (monotonic seconds), and no others.

        The kernel lets an element end by itself, so this holds when nobody comes back to change it. To add
        an element that is there does not prolong it: all are removed and added in one transaction, between
        which no packet falls. OSError: the table is not there, or not ours.
        """
        self._permitted = ends
        flush = nft_request(nft.DELETE_ELEMENTS, 0, elements_of(PERMITTED))
        requests = [flush, *self._permits()]
        said = await self._owner.talk(nft.transaction(requests), [0, len(requests)])
        for error in said:
            if error is not None:
                raise error

    async def admit(self, gone: Sequence[Element], new: Mapping[Element, float]) -> None:
        """People are let in by these new elements until these moments (monotonic seconds), and no more by
        those that are gone; one that is in both is renewed. OSError: the table is not there, or not ours;
        the next call then writes all of them.
        """
        # Before it is done: a table that is made meanwhile has the new ones.
        for each in gone:
            self._admitted.pop(each, None)
        self._admitted |= new
        sure, self._sure_of_people = self._sure_of_people, False
        try:
            if not sure:
                raise FileNotFoundError
            await self._talk(await run_offloaded(len(gone) + len(new), self._exchange, gone, new))
        except FileNotFoundError:  # some have ended by themselves, or nobody knows
            await self._talk(await run_offloaded(len(self._admitted), self._anew))
        self._sure_of_people = True

    def _exchange(self, gone: Sequence[Element], new: Mapping[Element, float]) -> list[NetlinkRequest]:
        removals = self._element_messages(Change(Op.REMOVE, each) for each in gone)
        return [*removals, *self._admits(new)]

    def _anew(self) -> list[NetlinkRequest]:
        names = (name for name in self._sets if name.startswith("people"))
        flushed = [nft_request(nft.DELETE_ELEMENTS, 0, elements_of(name)) for name in names]
        return [*flushed, *self._admits(dict(self._admitted))]

    async def _talk(self, requests: Sequence[NetlinkRequest]) -> None:
        if not requests:
            return
        for error in await self._owner.talk(nft.transaction(requests), [0, len(requests)]):
            if error is not None:
                raise error

    def _admits(self, ends: Mapping[Element, float]) -> Iterator[NetlinkRequest]:
        now = time.monotonic()
        lasting: dict[str, dict[Element, int]] = {}
        for element, end in ends.items():
            if (left := int((end - now) * 1000)) > 0:
                lasting.setdefault(element.set, {})[element] = left
        for name, elements in sorted(lasting.items()):
            yield from _lists(name, pack_lasting(self._sets[name], elements), nft.NEW_ELEMENTS)

    def _permits(self) -> list[NetlinkRequest]:
        now = time.monotonic()
        lasting = {lane: int((end - now) * 1000) for lane, end in self._permitted.items()}
        packed = pack_for(self._sets[PERMITTED], {lane: left for lane, left in lasting.items() if left > 0})
        if not packed:
            return []
        body = elements_of(PERMITTED) + attribute(nft.ELEMENTS_LIST | NESTED, b"".join(packed))
        return [nft_request(nft.NEW_ELEMENTS, CREATE, body)]

    async def commit(self, changes: Sequence[Change]) -> None:
        """Carry out what the changes say about the table and its elements: all of it or nothing."""
        build, remove = Change(Op.ADD, Table()) in changes, Change(Op.REMOVE, Table()) in changes
        elements = await run_offloaded(len(changes), self._element_messages, changes)
        since = self._closed_since or float(int(time.time()))
        requests = [
            *(nft.table_removal() if build or remove else []),
            *(nft.table_creation(self._ruleset, self._flags, since) if build else []),
            *elements,
            *(self._permits() if build else []),
            *(self._admits(self._admitted) if build else []),
        ]
        # The kernel answers a refused transaction at its first message, and each failure in it.
        said = await self._owner.talk(nft.transaction(requests), [0, len(requests)])
        failure = next((error for error in said if error is not None), None)
        if failure is None:
            if build or remove:
                self._built = await self._shape() if build else None
                self._closed_since = since if build else None
            return
        if not build or not self._flags or failure.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise failure
        # A kernel before 6.9 knows no owner that the table outlives: then without any.
        self._flags = 0
        await self.commit(changes)

    def _element_messages(self, changes: Iterable[Change]) -> list[NetlinkRequest]:
        """Removals first: intervals of the new elements may overlap old ones."""
        requests: list[NetlinkRequest] = []
        grouped: dict[tuple[bool, str], list[Element]] = {}
        for change in changes:
            if isinstance(change.item, Element):
                grouped.setdefault((change.op is Op.ADD, change.item.set), []).append(change.item)
        for (add, name), elements in sorted(grouped.items(), key=lambda entry: entry[0]):
            packed = pack(self._sets[name], elements)
            requests.extend(_lists(name, packed, nft.NEW_ELEMENTS if add else nft.DELETE_ELEMENTS))
        return requests

    async def _dump(self, kind: int, body: bytes = b"") -> list[Attributes]:
        return await self._reader.dump(
            nft_request(kind, DUMP, body), lambda found: dict(attributes(found[nft.HEADER_BYTES :]))
        )

    async def _tables(self) -> list[Attributes]:
        found = [table for table in await self._dump(nft.GET_TABLE) if text(table[nft.TABLE_NAME]) == TABLE]
        self._closed_since = nft.closed_since(found[0].get(nft.TABLE_USERDATA, b"")) if found else None
        return found

    async def _shape(self) -> _Shape:
        chains = [
            (text(found[nft.CHAIN_NAME]), found.get(nft.CHAIN_POLICY, b""), found[nft.CHAIN_HANDLE])
            for found in await self._dump(nft.GET_CHAIN)
            if text(found[nft.CHAIN_TABLE]) == TABLE
        ]
        rules = [
            (text(found[nft.RULE_CHAIN]), found[nft.RULE_HANDLE])
            for found in await self._dump(nft.GET_RULE, text_attribute(nft.RULE_TABLE, TABLE))
        ]
        return _Shape(tuple(sorted(chains)), tuple(rules))

    def _expected(self) -> list[tuple[str, bool, int]]:
        return sorted((chain.name, bool(chain.hook), len(chain.rules)) for chain in self._ruleset.chains)

    async def _elements(self, described: Set) -> Iterable[Element]:
        messages = await self._dump(nft.GET_ELEMENTS, elements_of(described.name))
        data = [found.get(nft.ELEMENTS_LIST, b"") for found in messages]
        before, elements = self._known.get(described.name, ([], []))
        if data != before:
            many = sum(map(len, data)) // _ELEMENT_BYTES
            elements = await run_offloaded(many, lambda: list(unpack(described, data)))
            self._known[described.name] = data, elements
        return elements


def _lists(name: str, packed: Sequence[bytes], kind: int) -> Iterator[NetlinkRequest]:
    """These elements of one set, in as many messages as they need."""
    for start in range(0, len(packed), _LIST_ELEMENTS):
        part = b"".join(packed[start : start + _LIST_ELEMENTS])
        body = elements_of(name) + attribute(nft.ELEMENTS_LIST | NESTED, part)
        yield nft_request(kind, CREATE if kind == nft.NEW_ELEMENTS else 0, body)
