"""Gives and lifts orders in the lock engine, and waits for what the members say. For the daemon, and for a
command on a machine that only has the configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from supervisor.core.fleet.orders import FleetOrder, read_order, reading
from supervisor.core.fleet.view import FleetSight, expected, order_entry, read_acknowledgements, read_statuses
from supervisor.core.views.documents import FleetOrderDocument
from supervisor.fleet.following import Following
from supervisor.fleet.lock_service import LockService
from supervisor.fleet.places import FleetPlaces, below

READ_AGAIN_SECONDS = 1.0  # while acknowledgements are waited for, beside the hints of a watch


@dataclass(frozen=True, slots=True)
class FleetOrdering:
    """Orders to the members of one fleet."""

    service: LockService
    places: FleetPlaces
    configured: tuple[str, ...]  # members that the configuration names

    async def sight(self) -> FleetSight:
        """All that the engine has about the fleet. LockServiceAway."""
        places, service = self.places, self.service
        nodes, orders, said = await asyncio.gather(
            *(service.list(prefix) for prefix in (places.nodes, places.orders, places.acknowledgements))
        )
        statuses, unknown = read_statuses(below(places.nodes, nodes))
        read = reading((), below(places.orders, orders))
        answers = read_acknowledgements(below(places.acknowledgements, said))
        return FleetSight(
            statuses, read.orders, answers, unknown=unknown, problems=read.problems, source="engine"
        )

    async def give(self, order: FleetOrder, wait: float) -> FleetOrderDocument:
        """Give an order; one that holds already stays as it is. Then wait up to `wait` seconds until every
        member has carried it out, also one that is not up at this moment. LockServiceAway.
        """
        key = self.places.orders + order.id
        held = await self.service.get(key)
        with contextlib.suppress(ValueError):
            order = order if held is None else read_order(order.id, held.value)
        began = time.monotonic()
        await self.service.put(key, order.content)
        sight = await self._answered(order, wait, lambda sight: self._all_done(order, sight))
        return self._document(order, sight, began, lifted=False)

    async def lift(self, order: FleetOrder, wait: float) -> FleetOrderDocument:
        """Lift an order, and wait up to `wait` seconds until no member follows it any more. LookupError: it
        does not hold. LockServiceAway.
        """
        key = self.places.orders + order.id
        held = await self.service.get(key)
        if held is None:
            raise LookupError(f"no such order holds: {order.id}")
        with contextlib.suppress(ValueError):
            order = read_order(order.id, held.value)
        began = time.monotonic()
        await self.service.delete(key)
        sight = await self._answered(order, wait, lambda sight: not sight.acknowledgements.get(order.id))
        return self._document(order, sight, began, lifted=True)

    def _document(
        self, order: FleetOrder, sight: FleetSight, began: float, *, lifted: bool
    ) -> FleetOrderDocument:
        members = expected(sight, self.configured)
        entry = order_entry(order, sight, members)
        if lifted:
            entry["missing"] = [each["member"] for each in entry["acknowledged"]]
        return {"order": entry, "lifted": lifted, "seconds": round(time.monotonic() - began, 3)}

    async def _answered(
        self, order: FleetOrder, wait: float, enough: Callable[[FleetSight], bool]
    ) -> FleetSight:
        """What the members say, as soon as it is enough or the time is over."""
        sight = await self.sight()
        changed = asyncio.Event()

        def read(said: Mapping[str, str]) -> None:
            nonlocal sight
            found = read_acknowledgements({f"{order.id}/{member}": text for member, text in said.items()})
            sight = replace(sight, acknowledgements=found)
            changed.set()

        prefix = f"{self.places.acknowledgements}{order.id}/"
        following = asyncio.create_task(Following(self.service, prefix, READ_AGAIN_SECONDS, read).run())
        try:
            async with asyncio.timeout(wait):
                while not enough(sight):
                    await changed.wait()
                    changed.clear()
        except TimeoutError:
            pass
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        return sight

    def _all_done(self, order: FleetOrder, sight: FleetSight) -> bool:
        said = sight.acknowledgements.get(order.id, {})
        return all(
            name in said and said[name].given == order.given and said[name].done
            for name in expected(sight, self.configured)
        )
