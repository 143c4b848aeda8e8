"""What must change in the kernel to get from one layout to another, in an order that is safe at each step.

diff(actual, wanted) -> Changes -> supervisor.kernel carries them out -> applied(actual, those done)
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from supervisor.core.network.intervals import Interval, Range
from supervisor.core.network.layout import Element, Item, Layout, Part, Route, Table
from supervisor.core.network.rules import Rule

ItemT = TypeVar("ItemT", Route, Rule)
HeldT = TypeVar("HeldT", Rule, Element)
_OF_NFTABLES = (Table, Element)


class Op(enum.Enum):
    """What a change does."""

    ADD = "+"
    REMOVE = "-"


class Change(NamedTuple):
    """One step from one layout to another."""

    op: Op
    item: Item
    replaces: bool = False  # the route takes the place of another one of ours

    @property
    def concerns_nftables(self) -> bool:
        """It belongs into a transaction of nftables."""
        return isinstance(self.item, _OF_NFTABLES)

    @property
    def announces(self) -> bool:
        """It is about what routers are told."""
        return isinstance(self.item, Route) and self.item.announces

    def __str__(self) -> str:
        return f"{self.op.value} {self.item}"


def diff(actual: Layout, target: Layout) -> tuple[Change, ...]:
    """The changes from `actual` to `target`: what closes goes in first and out last, what opens goes in
    last and out first.

    The table and its elements stand in one block, because they change in one transaction; removed elements
    come first, as intervals may overlap. What routers are told of a destination comes first if it is that it
    works worse here or not at all, and else when it works.
    """
    table = actual.table and target.table
    have = actual.elements if table else frozenset()
    want = target.elements if target.table else frozenset()
    new = _ordered(target.routes - actual.routes)
    places = {route.place for route in new}
    gone = actual.routes - target.routes
    taken = {route.place for route in gone} & places
    old = _ordered(route for route in gone if route.place not in taken)
    told = [Change(Op.ADD, route, route.place in taken) for route in new if route.announces]
    told += _changes(Op.REMOVE, [route for route in old if route.announces])
    better = _better(actual, target) if told else frozenset()
    new, old = ([route for route in routes if not route.announces] for routes in (new, old))
    return (
        *(change for change in told if _about(change) not in better),
        *(Change(Op.ADD, route, route.place in taken) for route in new if _closes(route)),
        *_changes(Op.ADD, _ordered(target.rules - actual.rules)),
        *_changes(Op.ADD, [Table()] if target.table and not actual.table else []),
        *_changes(Op.REMOVE, _ordered_elements(have - want)),
        *_changes(Op.ADD, _ordered_elements(want - have)),
        *(Change(Op.ADD, route, route.place in taken) for route in new if not _closes(route)),
        *(change for change in told if _about(change) in better),
        *_changes(Op.REMOVE, [route for route in old if not _closes(route)]),
        *_changes(Op.REMOVE, _ordered(actual.rules - target.rules)),
        *_changes(Op.REMOVE, [Table()] if actual.table and not target.table else []),
        *_changes(Op.REMOVE, [route for route in old if _closes(route)]),
    )


_Told = tuple[object, int]  # a network and a table


def _better(actual: Layout, target: Layout) -> frozenset[_Told]:
    """What will be announced with the same metric as before, with a better one or for the first time."""
    before, after = _metrics(actual.routes), _metrics(target.routes)
    return frozenset(told for told, metric in after.items() if metric <= before.get(told, metric))


def _metrics(routes: Iterable[Route]) -> dict[_Told, int]:
    """The best metric of each network that is announced."""
    best: dict[_Told, int] = {}
    for route in routes:
        if route.announces:
            told = route.network, route.table
            best[told] = min(route.metric, best.get(told, route.metric))
    return best


def _about(change: Change) -> _Told:
    assert isinstance(change.item, Route)
    return change.item.network, change.item.table


def deserved(change: Change, failed: Sequence[Change]) -> bool:
    """False: it would tell routers that a destination works, and what makes it work has just failed."""
    if (
        not failed
        or change.op is Op.REMOVE
        or not isinstance(change.item, Route)
        or not change.item.announces
    ):
        return True
    devices = {each.item.device for each in failed if isinstance(each.item, Route) and not each.announces}
    return change.item.device not in devices - {None} and not any(each.concerns_nftables for each in failed)


def applied(layout: Layout, changes: Sequence[Change]) -> Layout:
    """The layout after the changes."""
    rules: dict[Rule, Op] = {}
    elements: dict[Element, Op] = {}
    table, before = layout.table, layout.elements
    for op, item, _ in changes:
        match item:
            case Element():
                elements[item] = op
            case Rule():
                rules[item] = op
            case Table():
                table, before = op is Op.ADD, frozenset()
                elements.clear()
    return Layout(
        _routes_after(layout.routes, changes), _after(layout.rules, rules), table, _after(before, elements)
    )


def _after(items: frozenset[HeldT], last: Mapping[HeldT, Op]) -> frozenset[HeldT]:
    """The items after the last thing that was done to each."""
    if not last:
        return items
    return items.difference(last).union(item for item, op in last.items() if op is Op.ADD)


def _routes_after(routes: frozenset[Route], changes: Iterable[Change]) -> frozenset[Route]:
    """A route that is added takes the place of one that stood there."""
    places = {
        change.item.place: (change.op, change.item) for change in changes if isinstance(change.item, Route)
    }
    if not places:
        return routes
    tables = {route.table for _, route in places.values()}
    gone = frozenset(route for route in routes if route.table in tables and route.place in places)
    return (routes - gone) | {route for op, route in places.values() if op is Op.ADD}


def _closes(route: Route) -> bool:
    return route.kind not in ("unicast", "local")


def _changes(op: Op, items: Iterable[Item]) -> Iterator[Change]:
    return (Change(op, item) for item in items)


def _ordered(items: Iterable[ItemT]) -> list[ItemT]:
    """In an order that does not depend on hashing and that a person would expect."""
    return sorted(items, key=_order)


def _order(item: Route | Rule) -> tuple[int | str, ...]:
    match item:
        case Route():
            network = item.network
            return item.table, network.version, int(network.network_address), network.prefixlen, item.metric
        case Rule():
            return (
                item.mark,
                item.version,
                item.table,
                item.priority,
                item.mask,
                item.target,
                item.device or "",
            )


def _ordered_elements(elements: Iterable[Element]) -> list[Element]:
    """By set, key and value. Where the key is an interval, and those are many, the elements themselves
    have that order.
    """
    sets: dict[str, list[Element]] = {}
    for element in elements:
        sets.setdefault(element.set, []).append(element)
    for members in sets.values():
        members.sort(key=None if isinstance(members[0].key[0], Interval) else _element_order)
    return [element for name in sorted(sets) for element in sets[name]]


def _element_order(element: Element) -> tuple[object, ...]:
    return tuple(map(_part_order, element.key)), tuple(map(_part_order, element.value))


def _part_order(part: Part) -> tuple[int, int, str]:
    match part:
        case Interval() | Range():
            return part.first, part.last, ""
        case int():
            return part, 0, ""
        case str():
            return 0, 0, part
