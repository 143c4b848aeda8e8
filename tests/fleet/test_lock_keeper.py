"""The keeper of locks on a service in memory that can fall silent."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

import pytest

from supervisor.core.events import Event, LockChanged
from supervisor.core.fleet.wishes import LockWish
from supervisor.fleet.held_locks import HeldLocks
from supervisor.fleet.lock_keeper import Clocks, LockKeeper, LockSources
from supervisor.fleet.lock_service import (
    LeaseGrant,
    LockAnswer,
    LockServiceAway,
    LockServiceDenied,
    StoredValue,
)

pytestmark = pytest.mark.slow
TTL = 2.0
LOCK = "facilitator/emea/locks/svc"


class MemoryService:
    """Always grants; silent while `away`."""

    name, ttl, budget = "memory", TTL, 0.1
    away = False
    denies = False  # locks; leases are granted
    renewals = 0

    def __init__(self) -> None:
        self.released: list[str] = []
        self.locks: dict[str, StoredValue] = {}
        self.keeps_locks = False  # they cannot be given back

    def _answer(self) -> None:
        if self.away:
            raise LockServiceAway("no answer in time")

    async def open_lease(self) -> LeaseGrant:
        self._answer()
        return LeaseGrant("1", TTL)

    async def renew(self, lease: str) -> bool:
        self._answer()
        self.renewals += 1
        return True

    async def revoke(self, lease: str) -> None:
        self._answer()

    async def acquire(self, key: str, value: str, lease: str) -> LockAnswer:
        self._answer()
        if self.denies:
            raise LockServiceDenied("permission denied")
        entry = self.locks.setdefault(key, StoredValue(key, value, 7, lease))
        return LockAnswer(entry.lease == lease, entry)

    async def release(self, key: str, lease: str) -> None:
        self._answer()
        if self.keeps_locks:
            raise LockServiceAway("no answer in time")
        self.locks.pop(key, None)
        self.released.append(key)

    async def get(self, key: str) -> StoredValue | None:
        self._answer()
        return self.locks.get(key)

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
        self.kept: list[HeldLocks | None] = []
        sources = LockSources(
            "emea",
            "vpn1",
            "boot",
            self._post,
            self._permit,
            lambda text, about: None,
            self.kept.append,
            self._vouch,
        )
        self.keeper = LockKeeper(self.service, sources, Clocks(realtime=lambda: time.time() + self.ahead))

    def want(self, account: str = "svc", *, running: bool) -> None:
        """What the tunnel wants."""
        self.keeper.set({"acme": LockWish(account, wanted=True, running=running, keep=True)})

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
    assert "fleet-lock" in kept.keeper.conditions
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
    assert "fleet-clock" in kept.keeper.conditions
    kept.want(running=False)
    await kept.until(True)


async def test_an_account_that_a_reload_changes_is_given_back_when_its_client_is_gone(kept: KeptLock) -> None:
    renewals = kept.service.renewals
    kept.want("other", running=True)
    await kept.until(False)
    async with asyncio.timeout(60.0):
        while kept.service.renewals < renewals + 2:
            await asyncio.sleep(0.05)
    assert kept.service.released == []
    kept.want("other", running=False)
    await kept.until(True)
    async with asyncio.timeout(60.0):
        while not kept.service.released:
            await asyncio.sleep(0.05)
    assert kept.service.released == [LOCK]


async def test_what_another_engine_or_ttl_has_granted_is_not_gone_on_from(kept: KeptLock) -> None:
    held = next(each for each in kept.kept if each is not None)
    fresh = KeptLock()
    assert await fresh.keeper.recall(replace(held, engine="memory emea 5")) == {}
    assert fresh.service.renewals == 0
    fresh.service.locks = dict(kept.service.locks)
    assert (await fresh.keeper.recall(held)).keys() == {"acme"}


async def test_a_lock_that_is_another_ones_by_now_is_not_gone_on_from(kept: KeptLock) -> None:
    held = next(each for each in kept.kept if each is not None)
    fresh = KeptLock()  # whose service knows of no lock: somebody has deleted it
    assert await fresh.keeper.recall(held) == {}
    fresh.service.locks = {LOCK: StoredValue(LOCK, "", 8, "another lease")}
    assert await fresh.keeper.recall(held) == {}
    assert fresh.service.renewals == 2


async def test_a_lock_that_was_not_given_back_is_given_back_by_the_next_daemon(kept: KeptLock) -> None:
    """Its lease is renewed for other locks, so it would be held for ever."""
    kept.service.keeps_locks = True
    kept.keeper.set({"acme": LockWish("svc", wanted=False, running=False, keep=True)})
    await kept.until(False)
    async with asyncio.timeout(60.0):
        while not (kept.kept and kept.kept[-1] is not None and kept.kept[-1].leaving):
            await asyncio.sleep(0.01)
    fresh = KeptLock()
    fresh.service.locks = dict(kept.service.locks)
    assert await fresh.keeper.recall(kept.kept[-1]) == {}
    task = asyncio.create_task(fresh.keeper.run())
    async with asyncio.timeout(60.0):
        while not fresh.service.released:
            await asyncio.sleep(0.01)
    assert fresh.service.released == [LOCK]
    assert fresh.kept[-1] is None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_lock_that_is_refused_is_said_although_the_lease_is_renewed() -> None:
    made = KeptLock()
    made.service.denies = True
    made.want(running=False)
    task = asyncio.create_task(made.keeper.run())
    async with asyncio.timeout(60.0):
        while made.service.renewals < 2:
            await asyncio.sleep(0.01)
            shown = "fleet-lock-access" in made.keeper.conditions
    assert shown
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
