"""Which routes of VPC tables are written, given what the cloud's API shows. Level-triggered: what should
stand there is compared with what stands there, again and again.

The API may be stale: after a write it may show the old route for a while, and once in a while it shows an old
one for no reason. So a write is given time to show, and a route that was right is rewritten only when two
readings in a row agree that it is not.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from supervisor.core.network.plan import NetworkPlan
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import well
from tunnels.networks import IPNetwork

SHOWN_SECONDS = 10.0  # that a write has to show in what is read


class CloudRoute(NamedTuple):
    """A place in a route table."""

    table: str  # rtb-...
    network: str


class RouteTarget(NamedTuple):
    """Where a route leads."""

    interface: str | None  # eni-...; None: to something else
    active: bool = True  # False: the cloud calls it a blackhole


class RouteWrite(enum.StrEnum):
    """How a route gets there."""

    CREATE = "create"  # there is none
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class CloudMemory:
    """What was done and seen. Moments are monotonic seconds."""

    right: frozenset[CloudRoute] = frozenset()  # routes that were seen as they should be, since they are ours
    written: Mapping[CloudRoute, float] = field(default_factory=dict)  # writes that have not shown yet
    doubted: Mapping[CloudRoute, RouteTarget | None] = field(default_factory=dict)  # seen wrong, once


def decide(
    wanted: Iterable[CloudRoute],
    interface: str,
    seen: Mapping[CloudRoute, RouteTarget],
    memory: CloudMemory,
    now: float,
) -> tuple[dict[CloudRoute, RouteWrite], CloudMemory]:
    """What to write, and what to remember. `interface`: ours, to which these routes should lead; `seen`: one
    reading of the route tables.
    """
    wanted = frozenset(wanted)
    right = {route for route in wanted if seen.get(route) == RouteTarget(interface)}
    writes: dict[CloudRoute, RouteWrite] = {}
    written: dict[CloudRoute, float] = {}
    doubted: dict[CloudRoute, RouteTarget | None] = {}
    for route in wanted - right:
        found, at = seen.get(route), memory.written.get(route)
        if at is not None and now - at < SHOWN_SECONDS:
            written[route] = at
        elif route in memory.right and (route not in memory.doubted or memory.doubted[route] != found):
            doubted[route] = found
        else:
            writes[route] = RouteWrite.CREATE if found is None else RouteWrite.REPLACE
            written[route] = now
    return writes, CloudMemory((memory.right & wanted) | right, written, doubted)


def carried_here(plan: NetworkPlan, snapshot: Snapshot) -> frozenset[IPNetwork]:
    """The destinations that work here and are welcome: this member may own their routes."""
    fit = {
        name
        for name, (tunnel, state) in snapshot.tunnels.items()
        if well(tunnel, state) and state.drain is None and not snapshot.draining
    }
    lanes = {lane.number for lane in plan.lanes if lane.tunnel in fit and lane.up and not lane.draining}
    return frozenset(carry.network for carry in plan.carries if carry.lane in lanes)
