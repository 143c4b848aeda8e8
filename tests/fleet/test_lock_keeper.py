"""The keeper of locks on a service in memory that can fall silent."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest

from supervisor.core.events import Event, LockChanged
from supervisor.core.fleet.wishes import LockWish
from supervisor.fleet.lock_keeper import Clocks, LockKeeper, LockSources
from supervisor.fleet.lock_service import LeaseGrant, LockAnswer, LockServiceAway, StoredValue

pytestmark = pytest.mark.slow
TTL = 2.0


class MemoryService:
    """Always grants; silent while `away`."""

    name, ttl, budget = "memory", TTL, 0.1
    away = False

    def _answer(self) -> None:
        if self.away:
            raise LockServiceAway("no answer in time")

    async def open_lease(self) -> LeaseGrant:
        self._answer()
        return LeaseGrant("1", TTL)

    async def renew(self, lease: str) -> bool:
        self._answer()
        return True

    async def revoke(self, lease: str) -> None:
        self._answer()

    async def acquire(self, key: str, value: str, lease: str) -> LockAnswer:
        self._answer()
        return LockAnswer(True, StoredValue(key, value, 7, lease))

    async def release(self, key: str, lease: str) -> None:
        self._answer()

    async def get(self, key: str) -> StoredValue | None:
        return None

    async def list(self, prefix: str) -> Sequence[StoredValue]:
        return []

    async def put(self, key: str, value: str, lease: str | None = None) -> None:
        self._answer()

    async def delete(self, key: str) -> None:
        self._answer()

    async def watch(self, prefix: str) -> AsyncIterator[None]:
        self._answer()
        yield

    async def close(self) -> None:
        """Nothing is open."""


class KeptLock:
    """A keeper, what it is told, and what it says."""

    def __init__(self) -> None:
        self.service = MemoryService()
        self.permitted: Mapping[str, float] = {}
        self.held, self.vouches, self.ahead = False, False, 0.0
        self._changed = asyncio.Event()
        sources = LockSources(
            "emea",
            "vpn1",
            "boot",
            self._post,
            self._permit,
            lambda text, about: None,
            lambda held: None,
            self._vouch,
        )
        self.keeper = LockKeeper(self.service, sources, Clocks(realtime=lambda: time.time() + self.ahead))

    def want(self, *, running: bool) -> None:
        """What the tunnel wants."""
        self.keeper.set({"acme": LockWish("svc", wanted=True, running=running, keep=True)})

    async def until(self, held: bool) -> None:
        """The engine was told that the lock is held, or not."""
        async with asyncio.timeout(60.0):
            while self.held is not held:
                self._changed.clear()
                await self._changed.wait()

    async def _permit(self, ends: Mapping[str, float]) -> None:
        self.permitted = ends

    async def _vouch(self, account: str) -> bool:
        return self.vouches

    def _post(self, event: Event) -> None:
        if isinstance(event, LockChanged):
            assert not event.lock.held or "acme" in self.permitted  # the kernel knows it first
            self.held = event.lock.held
            self._changed.set()


@pytest.fixture
async def kept() -> AsyncIterator[KeptLock]:
    made = KeptLock()
    made.want(running=False)
    task = asyncio.create_task(made.keeper.run())
    await made.until(True)
    made.want(running=True)
    yield made
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_silent_service_ends_it_before_the_lease_does(kept: KeptLock) -> None:
    await asyncio.sleep(TTL)  # it is renewed
    assert kept.held
    begun = time.monotonic()
    kept.service.away = True
    await kept.until(False)
    assert time.monotonic() - begun < TTL
    assert "fleet:lock" in kept.keeper.conditions
    kept.want(running=False)
    kept.service.away = False
    await kept.until(True)


async def test_what_all_others_vouch_for_goes_on_until_one_does_not(kept: KeptLock) -> None:
    kept.vouches, kept.service.away = True, True
    await asyncio.sleep(2 * TTL)
    assert kept.held
    assert kept.permitted["acme"] > time.monotonic()
    kept.vouches = False
    await kept.until(False)


async def test_a_clock_that_is_set_costs_the_lease_at_once(kept: KeptLock) -> None:
    kept.ahead = 3.0
    await kept.until(False)
    assert "acme" not in kept.permitted
    assert "fleet:clock" in kept.keeper.conditions
    kept.want(running=False)
    await kept.until(True)
