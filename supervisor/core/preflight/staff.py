"""Preflight check of `hub.routes`: do the profiles of staff route what the tunnels carry?"""

from __future__ import annotations

from collections.abc import Iterator

from supervisor.core.identity.staff_routes import compared
from supervisor.core.preflight.facts import HostFacts
from supervisor.core.preflight.finding import Finding, ok, warning


def staff_routes(facts: HostFacts) -> Iterator[Finding]:
    """What does not fit; nothing where no routes are named."""
    if not facts.staff_routes:
        return
    plan = facts.context.plan
    tunnels = {lane.number: lane.tunnel for lane in plan.lanes}
    carried = {carry.network: tunnels.get(carry.lane, "") for carry in plan.carries}
    found = list(compared(facts.staff_routes, carried, plan.staff))
    for text in found:
        yield warning("hub", text, "change the profiles of staff, hub.routes or destinations")
    if not found:
        yield ok("hub", "the profiles of staff route what the tunnels carry")
