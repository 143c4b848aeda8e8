"""What the kernel lacks of a plan."""

from __future__ import annotations

from collections.abc import Sequence

from supervisor.core.network.changes import Change, diff
from supervisor.core.network.layout import HostFeatures, Layout
from supervisor.core.network.plan import NetworkPlan
from supervisor.core.network.wanted import wanted
from supervisor.kernel.offload import run_offloaded


async def missing(actual: Layout, plan: NetworkPlan, host: HostFeatures) -> Sequence[Change]:
    """What must change from `actual` to what the plan wants on this host."""

    def compare(host: HostFeatures) -> Sequence[Change]:
        return diff(actual, wanted(plan, host))

    return await run_offloaded(len(actual.elements) + len(plan.carries), compare, host)
