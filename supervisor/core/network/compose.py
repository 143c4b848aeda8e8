"""The one place that composes the plan: for the engine at every turn, and for the first plan before it runs.

scope, snapshot, lanes, who carried what -> compose -> plan, who carries what, when that changes by itself
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from common.configuration.notation import Listen
from supervisor.core.network.failover import Carriers, choose
from supervisor.core.network.plan import NetworkPlan, Segments, desired, next_closing, next_refusal, proxies
from supervisor.core.network.second_hop import OtherMember, handed_over, member_lanes
from supervisor.core.snapshot import Snapshot
from tunnels.base import AnyKind, IPNetwork
from tunnels.networks import IPAddress


@dataclass(frozen=True, slots=True)
class Announcing:
    """How what works is announced (`fleet.announce.bgp`)."""

    table: int = 173  # number of the kernel table
    preference: int = 100  # metric of what works


@dataclass(frozen=True, slots=True)
class Scope:
    """What all tunnels have in common."""

    facilitator: str  # name of this facilitator
    staff: tuple[IPNetwork, ...]  # whose traffic may enter
    segments: Segments = field(default_factory=dict)  # named parts of staff
    timeout: float = 8 * 3600.0  # longest time (seconds) that a tunnel which drains waits for its flows
    idle: float = 900.0  # seconds without a packet after which a flow is not waited for
    accounting: bool = False  # of each flow's bytes, for the audit
    members: tuple[OtherMember, ...] = ()  # other members of the fleet, to which connections are handed over
    denied: tuple[IPAddress, ...] = ()  # sources that an order of the fleet keeps out
    announcing: Announcing | None = None  # what works is announced to routers
    listen: tuple[Listen, ...] = ()  # of the name service; none: there is no such service
    upstream: tuple[IPAddress, ...] = ()  # name servers that are asked for all other names


@dataclass(frozen=True, slots=True)
class Composed:
    """A plan, and what the next one depends on."""

    plan: NetworkPlan
    carriers: Carriers
    due: float | None  # the monotonic moment at which the plan changes without any event


def compose(
    scope: Scope, snapshot: Snapshot, lanes: Mapping[str, int], kinds: Mapping[str, AnyKind], before: Carriers
) -> Composed:
    """The plan for this snapshot; `before`: who carried each destination until now."""
    carriers, due = choose(before, snapshot)
    tunnels = {name: tunnel for name, (tunnel, _) in snapshot.tunnels.items()}
    plan = desired(
        scope.staff, lanes, proxies(tunnels, kinds), snapshot, carriers, scope.segments, scope.accounting
    )
    answering = frozenset(member.name for member in scope.members) - snapshot.gone
    ways = member_lanes(scope.members, answering)
    if ways:
        said = dict(snapshot.carried)
        carried = {lane.number: said[lane.tunnel] for lane in plan.lanes if lane.tunnel in said}
        plan = replace(plan, members=ways, handed_over=handed_over(ways, plan.carries, carried))
    plan = replace(plan, denied=scope.denied)
    times = (due, next_refusal(snapshot), next_closing(snapshot))
    moments = [moment for moment in times if moment is not None]
    return Composed(plan, carriers, min(moments, default=None))
