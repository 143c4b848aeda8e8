"""Access by person: which addresses a tunnel's rules about groups and people let in now.

    AccessPolicy.people, who has which address -> PersonRules.elements -> `kernel.people`

Rules by network are in the plan (`core.network.access`) and depend on nobody.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from supervisor.core.identity.book import Holding
from supervisor.core.network.access import AccessPolicy, PersonRule
from supervisor.core.network.intervals import Interval
from supervisor.core.network.layout import Element
from tunnels.networks import IPAddress

MAX_ELEMENTS = 100_000  # of all lanes together: a hub must not fill the kernel


@dataclass(frozen=True, slots=True)
class KnownPeople:
    """Who has which address. `until`: monotonic moment from which on this is too old to be relied on."""

    present: Mapping[IPAddress, Holding] = field(default_factory=dict)
    until: float = float("-inf")


NOBODY_KNOWN = KnownPeople()


def is_meant(rule: PersonRule, holding: Holding, now: float) -> bool:
    """Does the rule let this person in now (Unix time)?"""
    named = holding.person == rule.person if rule.person else rule.group in holding.groups
    return named and (rule.until is None or now < rule.until)


class PersonRules:
    """The rules by person of all lanes, indexed by whom they name."""

    def __init__(self, policies: Iterable[AccessPolicy]) -> None:
        self._by_name: defaultdict[tuple[str, str], list[tuple[int, PersonRule]]] = defaultdict(list)
        for policy in policies:
            for rule in policy.people:
                self._by_name[rule.group, rule.person].append((policy.lane, rule))

    def __bool__(self) -> bool:
        return bool(self._by_name)

    def elements(self, address: IPAddress, holding: Holding, now: float) -> dict[Element, float | None]:
        """The elements that let this person in at `now`, each with the Unix time at which its rule ends;
        None: never.
        """
        by_lane: defaultdict[int, list[PersonRule]] = defaultdict(list)
        for name in (("", holding.person), *((group, "") for group in dict.fromkeys(holding.groups))):
            for lane, rule in self._by_name.get(name, ()):
                if is_meant(rule, holding, now):
                    by_lane[lane].append(rule)
        return {
            element: until
            for lane, rules in by_lane.items()
            for element, until in _elements(lane, address, rules)
        }

    def next_end(self, now: float) -> float:
        """The Unix time at which the next rule ends; infinite: none does."""
        ends = (rule.until for rules in self._by_name.values() for _, rule in rules if rule.until is not None)
        return min((each for each in ends if each > now), default=float("inf"))


def _elements(
    lane: int, address: IPAddress, rules: list[PersonRule]
) -> Iterator[tuple[Element, float | None]]:
    """One for all ports, if a rule says so, and one for each port."""
    single, version = Interval(address.version, int(address), int(address)), address.version
    whole = [rule.until for rule in rules if rule.ports is None]
    if whole:
        yield Element(f"people{version}", (lane, single)), _last(whole)
    ports: dict[tuple[str, int], list[float | None]] = {}
    for rule in rules:
        for each in rule.ports or ():
            for port in range(each.first, each.last + 1):  # few: `tunnels.settings.MOST_PORTS`
                ports.setdefault((each.protocol, port), []).append(rule.until)
    for place, ends in ports.items():
        yield Element(f"people_ports{version}", (lane, single, *place)), _last(ends)


def _last(ends: Iterable[float | None]) -> float | None:
    """The latest of these moments; None is never."""
    known = list(ends)
    return None if None in known else max(each for each in known if each is not None)
