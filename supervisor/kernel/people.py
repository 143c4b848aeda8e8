"""Lets people in, and ends what they have under way when they may not any more.

    plan (rules), who has which address -> core.network.admission -> elements with timeouts
                                                                  -> flows of those who lost their right end

It waits for no round of `kernel.network`: a person who is removed is out within milliseconds. The elements
end by themselves when nobody renews them, also when the daemon is dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import NamedTuple

from supervisor.core.identity.book import Holding
from supervisor.core.network.access import AccessPolicy, open_to
from supervisor.core.network.admission import MAX_ELEMENTS, NOBODY_KNOWN, KnownPeople, PersonRules
from supervisor.core.network.intervals import Interval
from supervisor.core.network.layout import Element
from supervisor.core.network.plan import NetworkPlan
from supervisor.kernel.conntrack.denied import end_flows
from supervisor.kernel.nft.table import Nftables
from supervisor.kernel.offload import run_offloaded
from supervisor.kernel.sysctl import Note
from tunnels.networks import IPAddress

RETRY_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
_AHEAD_SECONDS = 2.0  # before an element ends, it is looked at
_SHORTEST_WAIT_SECONDS = 0.2
_WHOLE = 2  # parts of an element that is about all ports: lane and source
_MAX_PERSONS = 50_000
_RENEWED_SHARE = 0.75  # an element with less of its time left is renewed


class _Let(NamedTuple):
    """What lets one person in, by address."""

    person: str
    groups: tuple[str, ...]
    elements: frozenset[Element]


class PeopleAccess:
    """For the event loop's thread only."""

    def __init__(self, nftables: Nftables, note: Note) -> None:
        self._nftables, self._note = nftables, note
        self._plan = NetworkPlan()
        self._known = NOBODY_KNOWN
        self._gates: tuple[AccessPolicy, ...] = ()
        self._rules = PersonRules(())
        self._rules_end = float("inf")  # Unix time at which one of them ends
        self._let: dict[IPAddress, _Let] = {}
        self._first_end = float("inf")  # monotonic seconds at which the first element ends
        self._persons: dict[IPAddress, str] = {}  # who was last known at an address
        self._work = asyncio.Event()
        self._problem = ""

    def follow(self, plan: NetworkPlan) -> None:
        """The rules of this plan are in effect."""
        self._plan = plan
        if self._gates != plan.gates:
            self._work.set()

    def know(self, known: KnownPeople) -> None:
        """Who has which address from now on."""
        self._known = known
        self._work.set()

    async def run(self) -> None:
        """Keep the kernel up to date."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._wait_seconds()):
                    await self._work.wait()
            self._work.clear()
            try:
                await self._bring_in()
            except OSError as error:
                self._say(f"rules by person cannot be followed: {error}")
                await asyncio.sleep(RETRY_SECONDS)
                self._work.set()
            else:
                self._problem = ""

    async def _bring_in(self) -> None:
        """Exchange what has changed; all of it when rules have changed, or the elements are to be renewed."""
        plan, known, unix = self._plan, self._known, time.time()
        stale = known.until <= time.monotonic()
        present = {} if stale else known.present
        anew = self._gates != plan.gates or unix >= self._rules_end or self._must_renew(known)
        if anew:
            self._rules, self._gates = PersonRules(plan.gates), plan.gates
            self._rules_end = self._rules.next_end(unix)
        changed = {
            address: holding
            for address, holding in present.items()
            if anew or self._differs(address, holding)
        }
        left = [address for address in self._let if address not in present]
        found = await run_offloaded(len(changed), self._elements, changed, unix)
        gone = [
            element
            for address in (*left, *(each for each in changed if each in self._let))
            for element in self._let[address].elements
        ]
        new = {element: end for elements in found.values() for element, end in elements.items()}
        if gone or new:
            await self._nftables.admit(gone, self._bounded(new, len(gone)))
        whole = {_place(element) for element in new if len(element.key) == _WHOLE}
        lost = {place for element in gone if element not in new and (place := _place(element)) not in whole}
        if cuts := self._cuts(plan, known, lost, stale):
            await end_flows(cuts, {lane.port: lane.number for lane in plan.lanes if lane.port is not None})
        self._remember(changed, found, left, anew)

    def _must_renew(self, known: KnownPeople) -> bool:
        """A part of the elements' time is over, or it was too long."""
        now = time.monotonic()
        if self._first_end == float("inf") or known.until <= now:
            return False
        left = self._first_end - now
        return left < _RENEWED_SHARE * (known.until - now) or self._first_end > known.until + 1.0

    def _differs(self, address: IPAddress, holding: Holding) -> bool:
        let = self._let.get(address)
        return let is None or (let.person, let.groups) != (holding.person, holding.groups)

    def _elements(
        self, people: Mapping[IPAddress, Holding], unix: float
    ) -> dict[IPAddress, dict[Element, float]]:
        """The elements of these people, and when each ends (monotonic seconds)."""
        if not self._rules:
            return {}
        now, lasts = time.monotonic(), self._known.until
        return {
            address: {
                element: lasts if until is None else min(lasts, now + until - unix)
                for element, until in self._rules.elements(address, holding, unix).items()
            }
            for address, holding in people.items()
        }

    def _bounded(self, new: dict[Element, float], gone: int) -> dict[Element, float]:
        room = MAX_ELEMENTS - (sum(len(let.elements) for let in self._let.values()) - gone)
        if len(new) <= room:
            return new
        self._say(f"rules by person need more than {MAX_ELEMENTS} elements: some people are not let in")
        return dict(itertools.islice(new.items(), max(0, room)))

    def _remember(
        self,
        changed: Mapping[IPAddress, Holding],
        found: Mapping[IPAddress, Mapping[Element, float]],
        left: Iterable[IPAddress],
        anew: bool,
    ) -> None:
        for address in left:
            del self._let[address]
        for address, holding in changed.items():
            elements = frozenset(found.get(address, ()))
            self._let[address] = _Let(holding.person, holding.groups, elements)
            self._persons[address] = holding.person
        if len(self._persons) > _MAX_PERSONS:
            self._persons = {address: let.person for address, let in self._let.items()}
        ends = (end for elements in found.values() for end in elements.values())
        first = min(ends, default=float("inf"))
        self._first_end = first if anew or not self._let else min(self._first_end, first)

    def _cuts(
        self, plan: NetworkPlan, known: KnownPeople, lost: Iterable[tuple[int, IPAddress]], stale: bool
    ) -> dict[IPAddress, set[int] | None]:
        """Whose flows end, in which lanes. Of a person who has left nothing ends, who may come back to the
        same address: but somebody else who comes to it gets nothing of that.
        """
        policies = {policy.lane: policy for policy in plan.gates}
        lanes: dict[IPAddress, set[int]] = {}
        for lane, address in lost:
            policy = policies.get(lane)
            if policy is None or (address not in known.present and not stale):
                continue
            if not open_to(policy, plan.segments, address):
                lanes.setdefault(address, set()).add(lane)
        others = [] if stale else self._changed_hands(known.present)
        return {**lanes, **dict.fromkeys(others)}

    def _changed_hands(self, present: Mapping[IPAddress, Holding]) -> list[IPAddress]:
        """The addresses that belong to another person than before."""
        return [
            address
            for address, holding in present.items()
            if self._persons.get(address, holding.person) != holding.person
        ]

    def _wait_seconds(self) -> float:
        """Until the next element has to be renewed, or a rule ends."""
        due = min(self._first_end - _AHEAD_SECONDS - time.monotonic(), self._rules_end - time.time())
        return min(LONGEST_WAIT_SECONDS, max(_SHORTEST_WAIT_SECONDS, due))

    def _say(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            self._note(problem, {})


def _place(element: Element) -> tuple[int, IPAddress]:
    """Lane and source of an element."""
    lane, source = element.key[:2]
    assert isinstance(lane, int), "the first part is a number"
    assert isinstance(source, Interval), "the second is a source"
    return lane, ip_address(source.first.to_bytes(4 if source.version == 4 else 16, "big"))
