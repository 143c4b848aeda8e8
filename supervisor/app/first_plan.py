"""What the kernel should hold when the daemon starts, and without a daemon (`facilitator plan`)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from supervisor.config import Config
from supervisor.core.network.compose import Scope, compose
from supervisor.core.network.failover import recalled
from supervisor.core.network.plan import NetworkPlan, assign_lanes
from supervisor.core.session.record import PreviousRun, found
from tunnels.base import AnyKind
from tunnels.networks import IPAddress


def first_plan(
    config: Config,
    kinds: Mapping[str, AnyKind],
    memory: PreviousRun | None = None,
    denied: tuple[IPAddress, ...] = (),
) -> NetworkPlan:
    """What the kernel should hold for this configuration before any client is started. What still runs stays
    as it was. `denied`: staff addresses that orders of the fleet keep out.
    """
    tunnels, known = config.tunnels, memory or PreviousRun()
    snapshot = found(tunnels, known, time.monotonic())
    lanes = assign_lanes(list(tunnels), known.lanes)
    carriers = recalled(list(tunnels.values()), known.carries)
    common = replace(scope("", config), denied=denied)
    return compose(common, snapshot, lanes, kinds, carriers).plan


def scope(facilitator: str, config: Config) -> Scope:
    """The part of the configuration that all tunnels share; `facilitator`: the name of this one."""
    drain = config.drain
    return Scope(
        facilitator,
        config.staff.networks,
        config.staff.segments,
        drain.timeout,
        drain.idle,
        config.audit is not None,
    )
