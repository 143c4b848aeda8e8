"""What becomes of running flows from one plan to the next: which lanes stay open until their flows are moved,
and whose flows cannot go on, so that connection tracking must forget them. `supervisor.kernel.conntrack` does
it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from supervisor.core.network.plan import Lane, NetworkPlan
from tunnels.networks import IPAddress


def given_up(before: NetworkPlan, after: NetworkPlan) -> tuple[Lane, ...]:
    """The open lanes that are closed from one plan to the other while all that they carried goes to lanes
    that are up.
    """
    up = {lane.number for lane in after.lanes if lane.up}
    closed = {
        lane.number: lane
        for lane in before.lanes
        if lane.up and lane.device is not None and lane.number not in up
    }
    if not closed:
        return ()
    carried = {carry.network: carry.lane for carry in after.carries}
    stuck = closed.keys() & carried.values()
    stuck |= {
        carry.lane
        for carry in before.carries
        if carry.lane in closed and carried.get(carry.network) not in up
    }
    return tuple(lane for number, lane in closed.items() if number not in stuck)


def taken_over(before: NetworkPlan, after: NetworkPlan) -> tuple[Lane, ...]:
    """The open lanes that are closed from one plan to the other while the tunnel's other slot has come up
    with the same address.
    """
    addresses = {(lane.tunnel, lane.addresses) for lane in after.lanes if lane.up and lane.addresses}
    still = {lane.number for lane in after.lanes if lane.up}
    return tuple(
        lane
        for lane in before.lanes
        if lane.up and lane.number not in still and (lane.tunnel, lane.addresses) in addresses
    )


def to_forget(
    before: NetworkPlan,
    after: NetworkPlan,
    addresses: Mapping[int, tuple[IPAddress, ...]],
    behind: Collection[int],
) -> tuple[int, ...]:
    """The lanes whose running flows cannot go on as they are once `after` holds: connection tracking must
    forget these flows.

    A flow keeps the source address of its first packet. So it ends with a lane that was closed and carries
    nothing any more, in a lane that is closed while another one carries a destination of such a flow, and in
    one that has got another address; and with another member of the fleet that is gone. `addresses`: those
    that each lane had when it was last up; `behind`: lanes with flows to what another lane may carry now
    (`left_behind`, `overshadowed`).
    """
    up = {lane.number for lane in after.lanes if lane.up}
    closed = {lane.number for lane in before.lanes if lane.up} - up
    gone = _answering(before) - _answering(after)
    carrying = {carry.lane for carry in after.carries} if closed else set()
    readdressed = {
        lane.number for lane in after.lanes if lane.up and addresses.get(lane.number) != lane.addresses
    }
    return tuple(sorted(closed - carrying | readdressed | (set(behind) - up) | gone))


def _answering(plan: NetworkPlan) -> set[int]:
    """The lanes to other members that work."""
    return {lane.number for lane in plan.members if lane.alive}


def left_over(inherited: Collection[int], plan: NetworkPlan) -> tuple[int, ...]:
    """The lanes of an earlier daemon that are closed and carry nothing in the first plan: their running
    flows start over in other lanes.

    A tunnel may have left the configuration, or have lost its destinations to another one, while no daemon
    ran.
    """
    needed = {lane.number for lane in plan.lanes if lane.up} | {carry.lane for carry in plan.carries}
    return tuple(sorted(set(inherited) - needed))


def left_behind(before: NetworkPlan, after: NetworkPlan) -> set[int]:
    """The lanes that carried a destination which another lane carries now. Flows to it go on in them as
    long as they are up.
    """
    if before.carries is after.carries:
        return set()
    carried = {carry.network: carry.lane for carry in after.carries}
    return {carry.lane for carry in before.carries if carried.get(carry.network, carry.lane) != carry.lane}


def overshadowed(plan: NetworkPlan) -> set[int]:
    """The lanes of tunnels that reach a destination which another one carries: it may have been theirs."""
    carried = {carry.network: carry.lane for carry in plan.carries}
    ranked = {} if plan.directory is None else plan.directory.ranked
    lanes: dict[str, list[int]] = {}
    for lane in plan.lanes:
        lanes.setdefault(lane.tunnel, []).append(lane.number)
    return {
        number
        for network, names in ranked.items()
        if len(names) > 1
        for name in names
        for number in lanes.get(name, ())
        if carried.get(network, number) != number
    }


def kept_open(plan: NetworkPlan, lanes: Collection[Lane]) -> NetworkPlan:
    """The plan with these lanes still open: nothing new enters them, what is in them goes on."""
    numbers = {lane.number for lane in lanes}
    return (
        replace(plan, lanes=(*(lane for lane in plan.lanes if lane.number not in numbers), *lanes))
        if lanes
        else plan
    )
