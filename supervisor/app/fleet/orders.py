"""The orders of the fleet that hold on this member: kept on disk, carried out, and acknowledged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from supervisor.app.engine_view import DemandableEngine
from supervisor.app.stores.fleet_orders import FleetOrderFile
from supervisor.core.conditions import Condition
from supervisor.core.events import Event, Noticed
from supervisor.core.fleet.obedience import Present, addresses_of, finished, obeying
from supervisor.core.fleet.orders import (
    NO_DEMANDS,
    Acknowledgement,
    Demands,
    FleetOrder,
    acknowledged,
    demands,
    holding,
    reading,
)
from supervisor.core.snapshot import Snapshot
from tunnels.networks import IPAddress


@dataclass(frozen=True, slots=True)
class HeldTunnels:
    """The tunnels that may not start."""

    stopped_here: frozenset[str]  # by this member's own operator
    demands: Demands = NO_DEMANDS

    def __contains__(self, tunnel: object) -> bool:
        return tunnel in self.stopped_here or (isinstance(tunnel, str) and self.demands.hold(tunnel))


class FollowedOrders:
    """The orders, and that they are followed."""

    def __init__(
        self,
        file: FleetOrderFile,
        member: str,
        engine: DemandableEngine,
        post: Callable[[Event], None],
        stopped_here: Callable[[], frozenset[str]],
        in_kernel: Callable[[], Awaitable[None]],
        present: Callable[[], Present | None] = lambda: None,
    ) -> None:
        """`stopped_here`: the tunnels that this member's own operator has stopped; `in_kernel` waits until
        the kernel follows the latest plan; `present`: who has which address, None: there is no hub.
        """
        self._present = present
        self._file, self._member, self._engine = file, member, engine
        self._post, self._stopped_here, self._in_kernel = post, stopped_here, in_kernel
        self.problems: tuple[str, ...] = ()  # orders that are not understood, a sentence each
        self._said: Mapping[str, Acknowledgement] = {}
        self._denied: tuple[IPAddress, ...] = ()  # that the kernel lets in no more
        self.demands = demands(file.orders, member)

    @property
    def orders(self) -> tuple[FleetOrder, ...]:
        """Those that hold."""
        return self._file.orders

    @property
    def conditions(self) -> Mapping[str, Condition]:
        """Orders that are not understood."""
        if not self.problems:
            return {}
        return {"fleet-orders": Condition("; ".join(self.problems), "warning", "facilitator fleet status")}

    def begin(self) -> None:
        """The tunnels are configured. Those that still drain for an order that was lifted serve again."""
        self._obey(NO_DEMANDS)

    @property
    def held(self) -> HeldTunnels:
        """The tunnels that may not start."""
        return HeldTunnels(self._stopped_here(), self.demands)

    def refusal(self, tunnel: str) -> str | None:
        """Why an operator of this member cannot start a tunnel; None: no order is against it."""
        order = holding(self.orders, self._member, tunnel)
        if order is None:
            return None
        by = f" by {order.by}" if order.by else ""
        why = f" ({order.why})" if order.why else ""
        if order.subject == tunnel:
            return f"{tunnel} is stopped in the whole fleet{by}{why}; first: facilitator fleet start {tunnel}"
        lift = f"facilitator fleet drain {order.subject} --lift"
        return f"{order.subject} is drained for the fleet{by}{why}; first: {lift}"

    def taken(self, found: Mapping[str, str]) -> None:
        """The orders as the lock engine has them now, by name."""
        read = reading(self.orders, found)
        if read.problems != self.problems:
            self.problems = read.problems
            self._post(Noticed(""))
        if read.orders == self.orders:
            return
        self._log(read.orders)
        try:
            self._file.keep(read.orders)
        except OSError as error:
            text = "the orders of the fleet will not survive a restart of the daemon"
            structlog.get_logger().error(text, error=str(error))
        before, self.demands = self.demands, demands(read.orders, self._member)
        self.deny()
        self._obey(before)

    def deny(self) -> None:
        """Keep out whom the orders name, wherever they are now."""
        present = self._present() or {}
        found = addresses_of(present, self.demands.people) - set(self.demands.denied)
        self._engine.deny((*self.demands.denied, *sorted(found, key=str)))

    def acknowledgements(self, snapshot: Snapshot, now: float) -> Mapping[str, Acknowledgement]:
        """What this member has to say about each order, by name; `now`: Unix time in seconds."""
        done = finished(self.orders, self._member, snapshot, self._denied, self._present())
        self._said = acknowledged(self.orders, self._said, done, now)
        return self._said

    async def run(self) -> None:
        """Note when the kernel lets the denied addresses in no more."""
        while True:
            await self._engine.wait_for(lambda _: self._engine.plan.denied != self._denied)
            denied = self._engine.plan.denied
            await self._in_kernel()
            self._denied = denied
            self._post(Noticed(""))

    def _obey(self, before: Demands) -> None:
        engine = self._engine
        for event in obeying(
            before, self.demands, engine.snapshot, self._stopped_here(), engine.drained_by()
        ):
            self._post(event)
        self._post(Noticed(""))

    def _log(self, orders: tuple[FleetOrder, ...]) -> None:
        before, now = {order.id: order for order in self.orders}, {order.id: order for order in orders}
        log = structlog.get_logger()
        for id in sorted(now.keys() - before.keys()):
            log.warning("an order of the fleet holds", order=id, by=now[id].by, why=now[id].why)
        for id in sorted(before.keys() - now.keys()):
            log.warning("an order of the fleet is lifted", order=id)
