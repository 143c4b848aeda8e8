"""The locks of the cloud's routes, without a cloud."""

from __future__ import annotations

from supervisor.fleet.lock_service import LockServiceAway
from supervisor.fleet.route_owner import RouteOwner, RouteSettings
from tests.fleet.test_sharing import MemoryEngine, running, until

NETWORK = "10.77.0.0/24"


class LosingEngine(MemoryEngine):
    """Loses the first request that gives a lock up."""

    lost = 0

    async def release(self, key: str, lease: str) -> None:
        if not self.lost:
            self.lost += 1
            raise LockServiceAway("no answer in time")
        await super().release(key, lease)


async def test_a_lock_that_could_not_be_given_up_is_given_up_later() -> None:
    engine = LosingEngine()
    owner = RouteOwner(engine, "f/routes/", "vpn1", RouteSettings((), "auto"), lambda: None)
    async with running(owner.follow()):
        owner.set([NETWORK])
        await until(lambda: owner.held == {NETWORK})
        owner.set([])
        await until(lambda: engine.lost == 1 and not engine.values)
        assert owner.held == frozenset()
