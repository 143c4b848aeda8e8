"""Following what others write to the lock engine, and publishing what we say, on an engine in memory that can
be away, lose a lease, or give no hints.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any

from supervisor.core.fleet.member_status import MemberStatus
from supervisor.core.fleet.orders import Acknowledgement, FleetOrder, OrderKind
from supervisor.fleet.following import Following
from supervisor.fleet.lock_service import LeaseGrant, LockAnswer, LockServiceAway, StoredValue
from supervisor.fleet.ordering import FleetOrdering
from supervisor.fleet.places import FleetPlaces
from supervisor.fleet.publishing import Publishing

PATIENCE = 30.0


class MemoryEngine:
    """A `LockService` whose faults are switched on and off."""

    name, ttl, budget = "memory", 0.6, 0.1

    def __init__(self) -> None:
        self.values: dict[str, StoredValue] = {}
        self.leases: set[str] = set()
        self.away = self.mute = False
        self.puts: list[str] = []
        self.renewals = 0
        self._count = 0
        self._changed = asyncio.Condition()

    async def open_lease(self) -> LeaseGrant:
        self._ask()
        self._count += 1
        self.leases.add(str(self._count))
        return LeaseGrant(str(self._count), self.ttl)

    async def renew(self, lease: str) -> bool:
        self._ask()
        self.renewals += 1
        return lease in self.leases

    async def revoke(self, lease: str) -> None:
        self._ask()
        self.expire(lease)

    async def acquire(self, key: str, value: str, lease: str) -> LockAnswer:
        self._ask()
        if (found := self.values.get(key)) is None:
            await self.put(key, value, lease)
            return LockAnswer(True, self.values[key])
        return LockAnswer(found.lease == lease, found)

    async def release(self, key: str, lease: str) -> None:
        self._ask()
        if key in self.values and self.values[key].lease == lease:
            await self.delete(key)

    async def get(self, key: str) -> StoredValue | None:
        self._ask()
        return self.values.get(key)

    async def list(self, prefix: str) -> Sequence[StoredValue]:
        self._ask()
        return [value for key, value in sorted(self.values.items()) if key.startswith(prefix)]

    async def put(self, key: str, value: str, lease: str | None = None) -> None:
        self._ask()
        self._count += 1
        self.puts.append(key)
        self.values[key] = StoredValue(key, value, self._count, lease)
        await self._hint()

    async def delete(self, key: str) -> None:
        self._ask()
        self.values.pop(key, None)
        await self._hint()

    async def watch(self, prefix: str) -> AsyncIterator[None]:
        self._ask()
        yield
        while True:
            async with self._changed:
                await self._changed.wait()
            self._ask()
            yield

    async def close(self) -> None:
        """Nothing is open."""

    def expire(self, lease: str) -> None:
        """The lease is over, with all that was written with it."""
        self.leases.discard(lease)
        self.values = {key: value for key, value in self.values.items() if value.lease != lease}

    def texts(self) -> dict[str, str]:
        return {key: value.value for key, value in self.values.items()}

    def _ask(self) -> None:
        if self.away:
            raise LockServiceAway("nobody answers")

    async def _hint(self) -> None:
        if not self.mute:
            async with self._changed:
                self._changed.notify_all()


@contextlib.asynccontextmanager
async def running(task: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    made = asyncio.create_task(task)
    try:
        yield
    finally:
        made.cancel()
        await asyncio.gather(made, return_exceptions=True)


async def until(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not look():
            await asyncio.sleep(0.005)


async def test_what_others_write_is_read_by_hints_and_without_them() -> None:
    engine, found, away = MemoryEngine(), list[Mapping[str, str]](), list[LockServiceAway]()
    following = Following(engine, "f/orders/", 0.2, found.append, away.append)
    async with running(following.run()):
        await engine.put("f/orders/a", "1")
        await engine.put("f/nodes/x", "other")
        await until(lambda: bool(found) and found[-1] == {"a": "1"})
        engine.mute = True
        await engine.put("f/orders/b", "2")
        await until(lambda: found[-1] == {"a": "1", "b": "2"})
        engine.away = True
        await until(lambda: bool(away))
        assert str(away[0]) == "nobody answers"
        seen = len(found)
        await until(lambda: len(away) > 2)
        assert len(found) == seen, "an engine that is away has changed nothing"
        engine.away = engine.mute = False
        await engine.delete("f/orders/a")
        await until(lambda: found[-1] == {"b": "2"})


async def test_what_we_say_is_written_when_it_changes_and_lives_with_us() -> None:
    engine, problems = MemoryEngine(), list[LockServiceAway | None]()
    publishing = Publishing(engine, problems.append)
    publishing.set({"f/nodes/vpn1": "up"})
    async with running(publishing.run()):
        await until(lambda: engine.texts() == {"f/nodes/vpn1": "up"})
        await until(lambda: engine.renewals > 2)
        assert engine.puts == ["f/nodes/vpn1"], "renewals write nothing"
        publishing.set({"f/nodes/vpn1": "up", "f/acks/a/vpn1": "seen"})
        await until(lambda: engine.texts() == {"f/nodes/vpn1": "up", "f/acks/a/vpn1": "seen"})
        publishing.set({"f/nodes/vpn1": "drained"})
        await until(lambda: engine.texts() == {"f/nodes/vpn1": "drained"})
        for lease in list(engine.leases):  # as after minutes without an engine
            engine.expire(lease)
        await until(lambda: engine.texts() == {"f/nodes/vpn1": "drained"})
        assert None in problems
        engine.away = True
        publishing.set({"f/nodes/vpn1": "up"})
        await until(lambda: str(problems[-1]) == "nobody answers")
        engine.away = False
        await until(lambda: engine.texts() == {"f/nodes/vpn1": "up"} and problems[-1] is None)
    await publishing.end()
    assert engine.texts() == {}


async def test_an_order_waits_for_a_member_that_is_not_up_yet() -> None:
    engine, order = MemoryEngine(), FleetOrder(OrderKind.DRAIN, "vpn2", given=10.0)
    ordering = FleetOrdering(engine, FleetPlaces("f"), ("vpn1", "vpn2"))
    done = Acknowledgement(10.0, 10.1, True).content
    status = MemberStatus("0.1.0", False, ()).content
    await engine.put("facilitator/f/nodes/vpn1", status)
    giving = asyncio.create_task(ordering.give(order, PATIENCE))
    await until(lambda: "facilitator/f/orders/drain.vpn2" in engine.values)
    await engine.put("facilitator/f/acks/drain.vpn2/vpn1", done)
    await asyncio.sleep(0.1)
    assert not giving.done()
    await engine.put("facilitator/f/acks/drain.vpn2/vpn2", done)
    given = await giving
    assert given["order"]["missing"] == []
    silent = await ordering.give(FleetOrder(OrderKind.STOP, "acme", given=11.0), 0.1)
    assert silent["order"]["missing"] == ["vpn1", "vpn2"]
