"""What closes the host for destinations, whether or not anything carries them: the least that the kernel must
hold before packets are forwarded.

Two layers: an unreachable route in the main table, and the sets by which the rules of our table refuse what
would leave unencrypted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from supervisor.core.network.intervals import Interval, merged
from supervisor.core.network.layout import CLOSED_METRIC, MAIN_TABLE, Element, Layout, Route
from tunnels.networks import IPNetwork

_SETS = {4: "destinations4", 6: "destinations6"}


def closed(found: Layout, networks: Iterable[IPNetwork], versions: Iterable[int]) -> Layout:
    """What is found in the kernel, closed for these networks too. Nothing else of it changes, so what
    carries traffic goes on.
    """
    networks, versions = tuple(networks), frozenset(versions)
    before = frozenset(element for element in found.elements if element.set in _SETS.values())
    routes = (Route(each, MAIN_TABLE, CLOSED_METRIC) for each in networks if each.version in versions)
    return replace(
        found,
        routes=found.routes.union(routes),
        table=True,
        elements=(found.elements - before)
        | closing_elements([*_intervals(before), *map(Interval.of, networks)]),
    )


def closing_elements(intervals: Iterable[Interval]) -> frozenset[Element]:
    """The elements that close these addresses."""
    return frozenset(Element(_SETS[each.version], (each,)) for each in merged(intervals))


def still_open(
    found: Layout, networks: Iterable[IPNetwork], versions: Iterable[int]
) -> tuple[IPNetwork, ...]:
    """Those of the networks that one of the two layers does not close."""
    versions = frozenset(versions)
    return tuple(each for each in networks if closed(found, [each], versions) != found)


def _intervals(elements: Iterable[Element]) -> Iterable[Interval]:
    return (part for element in elements for part in element.key if isinstance(part, Interval))
