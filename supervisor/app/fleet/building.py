"""Builds the membership in a fleet, as the configuration says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from supervisor.app.engine_view import EngineView
from supervisor.app.files import Files
from supervisor.app.fleet.membership import EngineMembership, LooseMembership, MemberIdentity, Membership
from supervisor.app.fleet.orders import FollowedOrders
from supervisor.app.lock_engine import lock_service, member_apis, members_of
from supervisor.app.stores.fleet_orders import FleetOrderFile
from supervisor.config import Config
from supervisor.core.events import Event, Noticed
from supervisor.core.fleet.carriers import carrying_tunnels
from supervisor.core.fleet.member_status import MemberStatus, member_status
from supervisor.core.fleet.obedience import Present
from supervisor.core.fleet.orders import NO_DEMANDS, Demands
from supervisor.core.snapshot import Snapshot
from supervisor.fleet.ordering import FleetOrdering
from supervisor.fleet.places import FleetPlaces
from supervisor.fleet.route_owner import RouteOwner, RouteSettings
from supervisor.version import version


@dataclass(frozen=True, slots=True)
class MembershipInputs:
    """What a membership works with."""

    engine: EngineView
    files: Files
    post: Callable[[Event], None]
    stopped_here: Callable[[], frozenset[str]]  # tunnels that this member's own operator has stopped
    in_kernel: Callable[[], Awaitable[None]]  # waits until the kernel follows the latest plan
    present: Callable[[], Present | None]  # who has which address; None: no hub is configured


def membership(config: Config, name: str, inputs: MembershipInputs) -> Membership | None:
    """The membership of the member of this name; None: there is no fleet."""
    if (fleet := config.fleet) is None:
        return None
    engine, post = inputs.engine, inputs.post
    who = MemberIdentity(fleet.name, name, members_of(fleet, name))
    if fleet.lock is None:

        def alone(snapshot: Snapshot) -> MemberStatus:
            return _status(engine, snapshot, NO_DEMANDS)

        return LooseMembership(who, member_apis(fleet, name), engine, alone, inputs.stopped_here)
    file = FleetOrderFile(config.facilitator.state_dir)
    orders = FollowedOrders(file, name, engine, post, inputs.stopped_here, inputs.in_kernel, inputs.present)

    def status(snapshot: Snapshot) -> MemberStatus:
        return _status(engine, snapshot, orders.demands)

    service = lock_service(fleet.lock, name, inputs.files)
    ordering = FleetOrdering(service, FleetPlaces(fleet.name), who.configured)
    routes = None
    if (aws := fleet.announce.aws) is not None:
        settings = RouteSettings(aws.route_tables, aws.interface, aws.endpoint, aws.region)
        prefix = FleetPlaces(fleet.name).routes
        routes = RouteOwner(service, prefix, name, settings, lambda: post(Noticed("")))
    return EngineMembership(who, ordering, orders, engine, status, post, routes)


def _status(engine: EngineView, snapshot: Snapshot, demands: Demands) -> MemberStatus:
    carrying = carrying_tunnels(engine.plan)
    return member_status(version(), snapshot, carrying, drained=demands.drained)
