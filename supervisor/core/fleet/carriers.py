"""Which member carried each tunnel's destinations before this one: to it go the connections that this member
does not know (`core.network.second_hop`), where there are several it could be.

statuses of the members -> previous_carriers(...) -> event MembersCarry -> plan
"""

from __future__ import annotations

from collections.abc import Mapping

from supervisor.core.fleet.member_status import MemberStanding, MemberStatus
from supervisor.core.network.plan import NetworkPlan, Offer

_CARRYING = (MemberStanding.CARRIES, MemberStanding.DRAINS)


def previous_carriers(
    before: Mapping[str, str], statuses: Mapping[str, MemberStatus], own: str
) -> dict[str, str]:
    """By tunnel: the only other member that carries it, else the one that was known until now: nobody carries
    while a route moves, and two do for a moment. A member that is gone stays known, so that its connections
    are reset.
    """
    found: dict[str, list[str]] = {}
    for member, status in statuses.items():
        for tunnel in status.tunnels if member != own else ():
            if tunnel.standing in _CARRYING:
                found.setdefault(tunnel.name, []).append(member)
    return {**before, **{tunnel: members[0] for tunnel, members in found.items() if len(members) == 1}}


def newly_carried(
    before: Mapping[str, MemberStatus], now: Mapping[str, MemberStatus], own: str
) -> frozenset[str]:
    """The tunnels of which another member says that it carries them, and said before that it does not. One
    that was silent until now says nothing new.
    """
    return frozenset(
        name
        for member, status in now.items()
        if member != own and member in before
        for name in _carried(status) - _carried(before[member])
    )


def _carried(status: MemberStatus) -> frozenset[str]:
    return frozenset(each.name for each in status.tunnels if each.standing is MemberStanding.CARRIES)


def carrying_tunnels(plan: NetworkPlan) -> frozenset[str]:
    """The tunnels by which traffic of the fleet leaves here: to whose destinations routers send new flows.
    Where nothing is announced that cannot be known, and it is all that carry a destination.
    """
    if plan.announced_in is not None:
        return frozenset(each.tunnel for each in plan.announced if each.offer is Offer.CARRIES)
    owners = {lane.number: lane.tunnel for lane in plan.lanes if lane.up}
    return frozenset(owners[carry.lane] for carry in plan.carries if carry.lane in owners)
