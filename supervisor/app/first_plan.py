"""What the kernel should hold when the daemon starts, and without a daemon (`facilitator plan`)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address

from supervisor.config import Config
from supervisor.core.fleet.announcements import Announcements, announce, with_announcements
from supervisor.core.network.compose import Announcing, Scope, compose
from supervisor.core.network.failover import recalled
from supervisor.core.network.plan import NetworkPlan, assign_lanes
from supervisor.core.network.second_hop import OtherMember
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
    made = compose(common, snapshot, lanes, kinds, carriers)
    told = announce(common.announcing, snapshot, made.carriers, lanes, Announcements())
    return with_announcements(made.plan, common.announcing, told)


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
        members(config),
        announcing=_announcing(config),
        listen=() if config.names is None else config.names.listen,
        upstream=() if config.names is None else tuple(map(ip_address, config.names.upstream)),
    )


def members(config: Config) -> tuple[OtherMember, ...]:
    """The other members of the fleet, to which connections are handed over."""
    fleet, name = config.fleet, config.facilitator.name
    if fleet is None or fleet.handover.via == "none":
        return ()
    port = fleet.handover.port if fleet.handover.via == "vxlan" else 0
    own = fleet.members.get(name) if name is not None else None
    local = None if own is None else own.address
    return tuple(
        [
            OtherMember(other, each.address, _same_version(local, each.address), port)
            for other, each in fleet.members.items()
            if other != name
        ]
    )


def _same_version(address: IPAddress | None, other: IPAddress) -> IPAddress | None:
    return address if address is not None and address.version == other.version else None


def _announcing(config: Config) -> Announcing | None:
    bgp = None if config.fleet is None else config.fleet.announce.bgp
    return None if bgp is None else Announcing(bgp.table, bgp.preference)
