"""What the kernel should hold when the daemon starts, and without a daemon (`facilitator plan`)."""

from __future__ import annotations

import time
from collections.abc import Mapping

from supervisor.config import Config
from supervisor.core.network.failover import choose, recalled
from supervisor.core.network.plan import NetworkPlan, assign_lanes, desired, proxies
from supervisor.core.session.record import PreviousRun, found
from tunnels.base import AnyKind


def first_plan(
    config: Config, kinds: Mapping[str, AnyKind], memory: PreviousRun | None = None
) -> NetworkPlan:
    """What the kernel should hold for this configuration before anything was started: what still runs
    stays as it was.
    """
    tunnels, known = config.tunnels, memory or PreviousRun()
    snapshot = found(tunnels, known, time.monotonic())
    lanes = assign_lanes(list(tunnels), known.lanes)
    carriers = choose(recalled(list(tunnels.values()), known.carries), snapshot)[0]
    staff, accounting = config.staff, config.audit is not None
    return desired(
        staff.networks, lanes, proxies(tunnels, kinds), snapshot, carriers, staff.segments, accounting
    )
