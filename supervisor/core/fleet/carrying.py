"""Whether this member carries a destination now, for the health checks of load balancers."""

from __future__ import annotations

from ipaddress import ip_network

from supervisor.core.network.plan import NetworkPlan
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import sound
from tunnels.networks import IPNetwork


def parse_destination(text: str) -> IPNetwork:
    """A network as a path names it: `10.77.0.0/24` or `10.77.0.0_24`. ValueError: it is none."""
    return ip_network(text.replace("_", "/"))


def carrying_problem(snapshot: Snapshot, plan: NetworkPlan, text: str) -> str | None:
    """Why new flows to this destination, as staff address it, should go elsewhere; None: they are welcome.
    LookupError: no tunnel has such a destination.
    """
    lanes = {lane.number: lane for lane in plan.lanes}
    try:
        network = parse_destination(text)
    except ValueError:
        raise LookupError(f"{text} is not a network; write it as 10.77.0.0/24 or 10.77.0.0_24") from None
    carry = next((each for each in plan.carries if each.network == network), None)
    lane = None if carry is None else lanes.get(carry.lane)
    if lane is None or lane.tunnel not in snapshot.tunnels:
        raise LookupError(f"no tunnel has the destination {network}")
    tunnel, state = snapshot.tunnels[lane.tunnel]
    if snapshot.draining or state.drain is not None:
        return f"{tunnel.name} drains"
    if not lane.up or not sound(tunnel, state):
        return f"{tunnel.name} does not work: {state.phase.value}, {state.health.value}"
    return None
