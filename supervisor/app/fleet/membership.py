"""This daemon as a member of its fleet: it follows orders, publishes its status, and knows who else is up.

    lock engine --orders/--> FollowedOrders --Asked--> inbox;  denied addresses --> engine --> plan
                --nodes/---> who is up
    snapshot ---> nodes/MEMBER, acks/ORDER/MEMBER

Without a lock engine it knows the other members only by their HTTP servers, and there are no orders.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

from supervisor.app.engine_view import DemandableEngine
from supervisor.app.fleet.orders import FollowedOrders, HeldTunnels
from supervisor.core.conditions import Condition
from supervisor.core.events import CarriedElsewhere, Event, MembersCarry, Noticed
from supervisor.core.fleet.carriers import newly_carried, previous_carriers
from supervisor.core.fleet.cloud_routes import carried_here
from supervisor.core.fleet.member_status import MemberStatus
from supervisor.core.fleet.orders import FleetOrder
from supervisor.core.fleet.view import (
    FleetSight,
    expected,
    fleet_document,
    no_such_subject,
    read_acknowledgements,
    read_statuses,
    seen,
)
from supervisor.core.snapshot import Snapshot
from supervisor.core.views.documents import FleetDocument, FleetOrderDocument
from supervisor.fleet.following import Following
from supervisor.fleet.lock_keeper import LOCK_AWAY, LOCK_DENIED
from supervisor.fleet.lock_service import LockServiceAway, LockServiceDenied
from supervisor.fleet.member_api import MemberApis
from supervisor.fleet.ordering import FleetOrdering
from supervisor.fleet.places import below
from supervisor.fleet.publishing import Publishing
from supervisor.fleet.route_owner import RouteOwner
from supervisor.ticks import until_tick
from tunnels.networks import IPAddress

POLLS = 3  # of the orders in the time to live of a lease
STATUS_POLL_SECONDS = 30.0  # of the other members' statuses, beside the hints of a watch
AWAY_SECONDS = 30.0  # that the lock engine may be away before people see it
ROUTES_SECONDS = 15.0  # that the cloud's routes may be wrong before people see it
AWAY = "fleet-engine"  # name of the condition that it is away
NO_ENGINE = "without fleet.lock there are no orders, and nobody says which member carries a destination"

Task = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class MemberIdentity:
    """Who this member is."""

    fleet: str
    name: str
    configured: tuple[str, ...]  # all members that the configuration names, this one included


class EngineMembership:
    """A member of a fleet with a lock engine."""

    def __init__(
        self,
        who: MemberIdentity,
        ordering: FleetOrdering,
        orders: FollowedOrders,
        engine: DemandableEngine,
        status: Callable[[Snapshot], MemberStatus],
        post: Callable[[Event], None],
        routes: RouteOwner | None = None,
    ) -> None:
        """`status`: what this member publishes of itself; `routes`: of `fleet.announce.aws`."""
        self._routes = routes
        self._who, self._ordering, self._orders = who, ordering, orders
        self._engine, self._status, self._post = engine, status, post
        service, places = ordering.service, ordering.places
        self._publishing = Publishing(service, partial(self._reached, "publishing"))
        away = partial(self._reached, "following")
        self._following = Following(service, places.orders, service.ttl / POLLS, self._ordered, away)
        self._watching = Following(service, places.nodes, STATUS_POLL_SECONDS, self._saw)
        self._sight = FleetSight(source="engine")
        self._carried: Mapping[str, str] = {}  # by tunnel: the other member that carried it last
        self._away: dict[str, LockServiceAway] = {}  # by what cannot be done

    @property
    def tasks(self) -> Mapping[str, Task]:
        """What runs in the background, by name."""
        tasks: dict[str, Task] = {
            "fleet orders": self._following.run,
            "fleet members": self._watching.run,
            "fleet publishing": self._publishing.run,
            "fleet status": self._report,
            "fleet denials": self._orders.run,
        }
        if (routes := self._routes) is not None:
            tasks |= {
                "route locks": routes.follow,
                "route program": routes.keep,
                "routes": partial(self._own_routes, routes),
            }
        return tasks

    @property
    def reaches_engine(self) -> bool:
        """The lock engine has answered the last time."""
        return not self._away

    @property
    def conditions(self) -> Mapping[str, Condition]:
        """That the lock engine is away, and orders that are not understood."""
        found = dict(self._orders.conditions)
        if self._away:
            why = next(iter(self._away.values()))
            text = f"the lock engine cannot be used: {why}; the orders that were last read hold"
            cause = LOCK_DENIED if isinstance(why, LockServiceDenied) else LOCK_AWAY
            further = "facilitator fleet status"
            found[AWAY] = Condition(text, "warning", further, AWAY_SECONDS, explained_by=cause)
        if self._routes is not None and self._routes.problem is not None:
            text = f"the routes of fleet.announce.aws cannot be kept: {self._routes.problem}"
            found["fleet-routes"] = Condition(text, "error", after=ROUTES_SECONDS)
        return found

    def people_changed(self) -> None:
        """Somebody has another address."""
        self._orders.deny()

    @property
    def denied(self) -> tuple[IPAddress, ...]:
        """The staff addresses that orders keep out."""
        return self._orders.demands.denied

    @property
    def drained(self) -> bool:
        """An order drains this member."""
        return self._orders.demands.drained

    @property
    def held(self) -> HeldTunnels:
        """The tunnels that may not start."""
        return self._orders.held

    def begin(self) -> None:
        """The tunnels are configured for the first time."""
        self._orders.begin()

    def refusal(self, tunnel: str) -> str | None:
        """Why an operator of this member cannot start a tunnel; None: no order is against it."""
        return self._orders.refusal(tunnel)

    @property
    def sight(self) -> FleetSight:
        """What is known without asking anybody."""
        problems = (*self._orders.problems, *dict.fromkeys(map(str, self._away.values())))
        return replace(self._sight, orders=self._orders.orders, problems=problems)

    @property
    def known(self) -> FleetDocument:
        """What is known without asking anybody; not who follows the orders."""
        return fleet_document(self._who.fleet, self._who.name, self._who.configured, self.sight)

    @property
    def members_up(self) -> Mapping[str, bool]:
        """Whether each member is up."""
        return {name: name in self._sight.statuses for name in expected(self._sight, self._who.configured)}

    async def document(self) -> FleetDocument:
        """What is known now; who follows the orders is read from the engine."""
        places, sight = self._ordering.places, self.sight
        try:
            said = await self._ordering.service.list(places.acknowledgements)
        except LockServiceAway as error:
            sight = replace(sight, problems=(*self._orders.problems, str(error)))
        else:
            answers = read_acknowledgements(below(places.acknowledgements, said))
            sight = replace(sight, acknowledgements=answers)
        return fleet_document(self._who.fleet, self._who.name, self._who.configured, sight)

    async def give(self, order: FleetOrder, wait: float) -> FleetOrderDocument:
        """See `FleetOrdering`. LookupError: nobody has such a tunnel, or there is no such member. OSError:
        the lock engine does not take it.
        """
        own = self._engine.snapshot.tunnels
        if (text := no_such_subject(order, self._sight, self._who.configured, own)) is not None:
            raise LookupError(text)
        with _as_os_error():
            return await self._ordering.give(order, wait)

    async def lift(self, order: FleetOrder, wait: float) -> FleetOrderDocument:
        """See `FleetOrdering`. LookupError: it does not hold. OSError."""
        with _as_os_error():
            return await self._ordering.lift(order, wait)

    async def close(self) -> None:
        """This member is gone for the others."""
        if self._routes is not None:
            await self._routes.end()
        await self._publishing.end()
        await self._ordering.service.close()

    async def _own_routes(self, routes: RouteOwner) -> None:
        """The cloud's routes follow what works here."""
        engine = self._engine
        while True:
            networks = carried_here(engine.plan, engine.snapshot)
            routes.set({str(network) for network in networks})
            await engine.wait_for(
                lambda snapshot, networks=networks: carried_here(engine.plan, snapshot) != networks  # type: ignore[misc]
            )

    async def _report(self) -> None:
        """Publish the status and the acknowledgements whenever they change."""
        while True:
            values = self._values(self._engine.snapshot)
            self._publishing.set(values)
            await self._engine.wait_for(lambda snapshot, values=values: self._values(snapshot) != values)  # type: ignore[misc]

    def _values(self, snapshot: Snapshot) -> dict[str, str]:
        places, name = self._ordering.places, self._who.name
        said = self._orders.acknowledgements(snapshot, time.time())
        values = {f"{places.acknowledgements}{id}/{name}": each.content for id, each in said.items()}
        return {places.nodes + name: self._status(snapshot).content, **values}

    def _ordered(self, found: Mapping[str, str]) -> None:
        self._reached("following", None)
        self._orders.taken(found)

    def _saw(self, found: Mapping[str, str]) -> None:
        statuses, unknown = read_statuses(found)
        before, up = self._sight, {*statuses, *unknown}
        silent = seen(before.silent, up, (*self._who.configured, *before.statuses), time.time())
        self._sight = replace(before, statuses=statuses, unknown=unknown, silent=silent)
        if statuses != before.statuses:
            self._post(Noticed(""))
        for name in newly_carried(before.statuses, statuses, self._who.name):
            self._post(CarriedElsewhere(name))
        carried = previous_carriers(self._carried, statuses, self._who.name)
        if carried != self._carried:
            self._carried = carried
            self._post(MembersCarry("", carried=tuple(sorted(carried.items()))))

    def _reached(self, what: str, problem: LockServiceAway | None) -> None:
        """The lock engine has answered, or why it has not."""
        before = bool(self._away)
        self._away.pop(what, None)
        if problem is not None:
            self._away[what] = problem
        if before != bool(self._away):
            self._post(Noticed(""))


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except LockServiceAway as error:
        raise OSError(f"the lock engine does not take it: {error}") from error


class LooseMembership:
    """A member of a fleet without a lock engine."""

    conditions: Mapping[str, Condition] = MappingProxyType({})

    def people_changed(self) -> None:
        """No order names anybody."""

    denied: tuple[IPAddress, ...] = ()
    drained = False

    def __init__(
        self,
        who: MemberIdentity,
        apis: MemberApis,
        engine: DemandableEngine,
        status: Callable[[Snapshot], MemberStatus],
        stopped_here: Callable[[], frozenset[str]],
    ) -> None:
        self._who, self._apis, self._engine, self._status = who, apis, engine, status
        self._stopped_here = stopped_here
        self._others = FleetSight(source="members")
        self._silent: Mapping[str, float] = {}

    @property
    def tasks(self) -> Mapping[str, Task]:
        """What runs in the background, by name."""
        return {"fleet members": self._watch} if any(self._apis.urls.values()) else {}

    @property
    def held(self) -> HeldTunnels:
        """The tunnels that may not start: no order adds one."""
        return HeldTunnels(self._stopped_here())

    @property
    def reaches_engine(self) -> bool:
        """There is none."""
        return False

    def begin(self) -> None:
        """There is nothing to follow."""

    def refusal(self, tunnel: str) -> str | None:
        """No order is against it."""

    @property
    def known(self) -> FleetDocument:
        """What the members said when they were last asked."""
        own = {self._who.name: self._status(self._engine.snapshot)}
        sight = replace(
            self._others,
            statuses={**self._others.statuses, **own},
            silent=self._silent,
            problems=(NO_ENGINE,),
        )
        return fleet_document(self._who.fleet, self._who.name, self._who.configured, sight)

    @property
    def members_up(self) -> Mapping[str, bool]:
        """Whether each member is up that can be asked."""
        asked = {name: name in self._others.statuses for name, url in self._apis.urls.items() if url}
        return {**asked, self._who.name: True}

    async def document(self) -> FleetDocument:
        """The members' HTTP servers are asked."""
        await self._ask()
        return self.known

    async def give(self, order: FleetOrder, wait: float) -> FleetOrderDocument:
        """LookupError: there is nobody to give it to."""
        raise LookupError(NO_ENGINE)

    async def lift(self, order: FleetOrder, wait: float) -> FleetOrderDocument:
        """LookupError: there is no order."""
        raise LookupError(NO_ENGINE)

    async def close(self) -> None:
        """Nothing is open."""

    async def _watch(self) -> None:
        while True:
            await self._ask()
            await until_tick(STATUS_POLL_SECONDS)

    async def _ask(self) -> None:
        self._others = await self._apis.sight()
        up = {*self._others.statuses, self._who.name}
        self._silent = seen(self._silent, up, self._who.configured, time.time())


Membership = EngineMembership | LooseMembership
