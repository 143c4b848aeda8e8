"""Holds the locks of exclusive tunnels, as `core.fleet.member_lease` decides, and tells the engine.

set(wishes) --+                         +--> calls to the lock service, side by side
replies ------+--> MemberLease (pure) --+--> the kernel's fence, before anybody is told
time, clocks -+                         +--> LockChanged, conditions, the file for the next daemon
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from supervisor.core.conditions import Condition
from supervisor.core.events import Event, LockChanged, Noticed
from supervisor.core.fleet.lease import OURS, Lease, LeasePhase, Wished, interval
from supervisor.core.fleet.member_lease import LockCall, LockReply, LockRequest, MemberLease
from supervisor.core.fleet.wishes import LockWish, lock_key
from supervisor.core.humanize import iso
from supervisor.core.lock_view import LockView
from supervisor.fleet.following import watched
from supervisor.fleet.held_locks import HeldLocks, recalled
from supervisor.fleet.lock_service import LockService, LockServiceAway, LockServiceDenied

JUMP_SECONDS = 1.0  # by which two clocks of this host may drift apart between two looks
LOCK_AWAY, LOCK_DENIED = "fleet-lock", "fleet-lock-access"  # conditions: no answer; an answer that refuses us
CLOCK_CONDITION_SECONDS = 600.0  # for which a jump is shown


@dataclass(frozen=True, slots=True)
class LockSources:
    """What the keeper knows of the world, beside the lock service."""

    fleet: str
    member: str
    boot: str
    post: Callable[[Event], None]
    permit: Callable[[Mapping[str, float]], Awaitable[None]]  # tunnel -> until when its client may send
    note: Callable[[str, Mapping[str, object]], None]  # a line for the log
    keep: Callable[[HeldLocks | None], None]  # for the next daemon
    # Every other member says that it does not hold this account's lock.
    vouch: Callable[[str], Awaitable[bool]]


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Clocks:
    """Three clocks of this host, as functions that give seconds."""

    monotonic: Callable[[], float] = time.monotonic
    boottime: Callable[[], float] = _boottime
    realtime: Callable[[], float] = time.time

    def differences(self) -> tuple[float, float]:
        """By how much the other two are ahead of the first."""
        now = self.monotonic()
        return self.boottime() - now, self.realtime() - now


class LockKeeper:
    """The engine's `Locks` and `Watcher`. For the event loop's thread only."""

    def __init__(self, service: LockService, sources: LockSources, clocks: Clocks = Clocks()) -> None:
        self._service, self._sources, self._clocks = service, sources, clocks
        self._member = MemberLease(service.ttl)
        self._wishes: Mapping[str, LockWish] = {}
        self._granted: dict[str, str] = {}  # account: the tunnel for which we ask, or hold
        self._seen: dict[str, LockView] = {}  # by tunnel: what the engine knows
        self._permitted: Mapping[str, float] = {}
        self._kept: HeldLocks | None = None
        self._wake = asyncio.Event()
        self._calls: set[asyncio.Task[None]] = set()
        self._watch: asyncio.Task[None] | None = None
        self._vouching: dict[str, asyncio.Task[None]] = {}  # by account
        self._differences = clocks.differences()
        self._jumped_at: float | None = None
        self._denied: dict[tuple[LockCall, str], str] = {}  # by call and account: the last one was refused
        self._conditions: Mapping[str, Condition] = {}

    # --- what others ask

    def set(self, wishes: Mapping[str, LockWish]) -> None:
        """See `outputs.Locks`."""
        if wishes != self._wishes:
            self._wishes = wishes
            self._wake.set()

    @property
    def conditions(self) -> Mapping[str, Condition]:
        """What is wrong with the lock service, and with this host's clocks."""
        return self._conditions

    @property
    def held(self) -> Mapping[str, bool]:
        """By account: whether its lock is ours."""
        return {name: each.phase in OURS for name, each in self._member.accounts.items()}

    @property
    def answers(self) -> bool:
        """The lock service answers."""
        return not self._member.silent

    @property
    def _engine(self) -> str:
        """What a lease belongs to, and for how long it was granted: a renewal does not change its TTL."""
        return f"{self._service.name} {self._sources.fleet} {self._service.ttl:g}"

    async def recall(self, held: HeldLocks | None) -> Mapping[str, float]:
        """Go on from what an earlier daemon has held; before `run`. Until when its clients may send, by
        tunnel. The lease is renewed at once: it may have time left when our own permission has none. A lock
        that is another one's by now, or nobody's, is not ours any more.
        """
        if held is None or (held.boot, held.engine) != (self._sources.boot, self._engine):
            return {}
        now = self._clocks.monotonic
        until, accounts = await recalled(self._service, held, self._sources.fleet, now)
        if until <= now():
            return {}
        member = replace(self._member, lease=held.lease, until=until, renew_at=now(), accounts=accounts)
        self._member, self._granted = member, dict(held.tunnels)
        self._permitted = self._permits()
        return self._permitted

    # --- the task

    async def run(self) -> None:
        """For ever."""
        try:
            while True:
                self._wake.clear()
                await self._turn()
                due = self._member.due
                now = self._clocks.monotonic()
                wait = interval(self._service.ttl) if due is None else max(0.0, due - now)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
        finally:
            self._cancel()

    async def close(self) -> None:
        """End. What is still held goes to the next daemon; else the lease is given back."""
        self._cancel()
        if self._member.lease is not None and not any(each.running for each in self._wishes.values()):
            self._sources.keep(None)
            with contextlib.suppress(LockServiceAway):
                await self._service.revoke(self._member.lease)
        await self._service.close()

    async def _turn(self) -> None:
        now = self._clocks.monotonic()
        self._look_at_clocks(now)
        cautious = any(wish.keep for wish in self._wishes.values())
        self._member = replace(self._member, cautious=cautious).wished(self._by_account(), now).passed(now)
        self._keep()  # before a lock is given back: the next daemon must not believe that it is held
        for request in tuple(self._member.requests(now)):
            self._member = self._member.sent(request, now)
            task = asyncio.create_task(self._call(request, now))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
        self._ask_the_others()
        await self._fence()
        self._tell(self._clocks.monotonic())
        self._follow_locks()

    def _cancel(self) -> None:
        for task in (*self._calls, *self._vouching.values(), self._watch):
            if task is not None:
                task.cancel()
        self._watch = None
        self._vouching.clear()
        self._member = replace(self._member, under_way=frozenset())  # asked again, if `run` starts over

    def _look_at_clocks(self, now: float) -> None:
        """A host that was suspended, or whose clock was set, does not know how long it was away."""
        before, self._differences = self._differences, self._clocks.differences()
        pairs = zip(before, self._differences, strict=True)
        jump = max(pairs, key=lambda pair: abs(pair[1] - pair[0]))
        if abs(seconds := jump[1] - jump[0]) > JUMP_SECONDS:
            self._jumped_at = now
            why = f"this host's clocks have moved apart by {seconds:.1f} s"
            self._sources.note("exclusive tunnels end: a clock jumped", {"seconds": round(seconds, 3)})
            self._member = self._member.doubted(why, now)

    def _by_account(self) -> dict[str, Wished]:
        """One tunnel of each account at a time: the one that runs, else the one that was first."""
        wished: dict[str, Wished] = {}
        tunnels: dict[str, list[str]] = {}
        for name, wish in self._wishes.items():
            tunnels.setdefault(wish.account, []).append(name)
        for account in self._member.accounts:
            if self._leaves(account):
                wished[account] = Wished(False, True)
        for account, names in tunnels.items():
            if account in wished:
                continue

            def rank(name: str, before: str | None = self._granted.get(account)) -> tuple[bool, bool, bool]:
                return not self._wishes[name].running, not self._wishes[name].wanted, name != before

            first = min(names, key=rank)
            self._granted[account] = first
            wish = self._wishes[first]
            wished[account] = Wished(wish.wanted, any(self._wishes[name].running for name in names))
        return wished

    def _leaves(self, account: str) -> bool:
        """The tunnel that holds it has another account since a reload, and its client still runs with this
        one: the lock is given back when that client is gone.
        """
        wish = self._wishes.get(self._granted.get(account, ""))
        running = wish is not None and wish.running and wish.account != account
        return running and self._member.accounts[account].running

    # --- the lock service

    async def _call(self, request: LockRequest, sent: float) -> None:
        try:
            reply = await self._reply(request)
        except LockServiceAway as error:
            self._denied.pop((request.call, request.account), None)
            if isinstance(error, LockServiceDenied):
                self._denied[request.call, request.account] = str(error)
            self._member = self._member.failed(request, str(error), self._clocks.monotonic())
        else:
            self._denied.pop((request.call, request.account), None)
            now = self._clocks.monotonic()
            self._look_at_clocks(now)
            self._member = self._member.answered(request, reply, sent, now)
        self._wake.set()

    async def _reply(self, request: LockRequest) -> LockReply:
        service, key = self._service, lock_key(self._sources.fleet, request.account)
        match request.call:
            case LockCall.OPEN:
                granted = await service.open_lease()
                return LockReply(lease=granted.id, ttl=granted.ttl)
            case LockCall.RENEW:
                return LockReply(await service.renew(request.lease))
            case LockCall.GIVE_BACK:
                await service.release(key, request.lease)
                return LockReply()
            case LockCall.ACQUIRE:
                return await self._acquired(key, request)

    async def _acquired(self, key: str, request: LockRequest) -> LockReply:
        tunnel = self._granted.get(request.account, "")
        ours = {"member": self._sources.member, "tunnel": tunnel, "since": iso(self._clocks.realtime())}
        answer = await self._service.acquire(key, json.dumps(ours), request.lease)
        entry = answer.entry
        if answer.held:
            return LockReply(token=0 if entry is None else entry.token)
        return LockReply(granted=False, holder=None if entry is None else _holder(entry.value))

    def _follow_locks(self) -> None:
        """While we wait for a lock, its changes are told at once."""
        asks = any(each.asks for each in self._member.accounts.values())
        if asks and self._watch is None:
            prefix = lock_key(self._sources.fleet, "")
            self._watch = asyncio.create_task(watched(self._service, prefix, self._changed))
        elif not asks and self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _changed(self) -> None:
        """A lock has, of some member."""
        self._member = self._member.hinted(self._clocks.monotonic())
        self._wake.set()

    # --- without the lock service
    def _ask_the_others(self) -> None:
        """`without_lock: keep`: while the service is silent, the members themselves are asked."""
        for account, each in self._member.accounts.items():
            wish = self._wishes.get(self._granted.get(account, ""))
            if each.phase is LeasePhase.UNKNOWN and wish is not None and wish.keep:
                if account not in self._vouching:
                    self._vouching[account] = asyncio.create_task(self._vouched(account))
            elif (task := self._vouching.pop(account, None)) is not None:
                task.cancel()

    async def _vouched(self, account: str) -> None:
        """Ask until the service is back, or somebody does not answer in time."""
        while True:
            asked = self._clocks.monotonic()
            if await self._sources.vouch(account):
                self._member = self._member.vouched(account, asked, self._clocks.monotonic())
                self._wake.set()
            await asyncio.sleep(interval(self._service.ttl) / 2)

    # --- what follows

    async def _fence(self) -> None:
        """The kernel lets the client's packets out until then. It knows before the engine does."""
        while (permits := self._permits()) != self._permitted:
            await self._sources.permit(permits)
            self._permitted = permits

    def _permits(self) -> dict[str, float]:
        now = self._clocks.monotonic()
        return {
            self._granted[account]: each.until
            for account, each in self._member.accounts.items()
            if account in self._granted and each.until > now and each.phase is not LeasePhase.FREE
        }

    def _tell(self, now: float) -> None:
        """The engine, of what has changed; and the log, of locks that came and went."""
        conditions = dict(self._wrong(now))
        if conditions != self._conditions:
            self._conditions = conditions
            self._sources.post(Noticed(""))
        for name, wish in self._wishes.items():
            view, before = self._view(name, wish, now), self._seen.get(name, LockView(""))
            if view != before:
                self._seen[name] = view
                if view.held != before.held:
                    said = "holds the lock" if view.held else "does not hold the lock any more"
                    about = {"tunnel": name, "account": wish.account, "token": view.token or before.token}
                    self._sources.note(said, about | ({"why": view.text} if view.text else {}))
                self._sources.post(LockChanged(name, None, view, self._permitted.get(name, now)))
        self._seen = {name: view for name, view in self._seen.items() if name in self._wishes}

    def _view(self, name: str, wish: LockWish, now: float) -> LockView:
        lease = self._member.accounts.get(wish.account, Lease())
        first = self._granted.get(wish.account)
        if first != name and lease.phase in OURS:
            return LockView(wish.account, self.answers, holder=f"this host for tunnel {first}")
        held = first == name and not lease.must_end(now)
        text = "" if held else lease.why or self._member.silent
        token = lease.token if held else None
        return LockView(wish.account, self.answers, held, token, lease.holder, text)

    def _wrong(self, now: float) -> dict[str, Condition]:
        found = {}
        service, exclusive = self._service.name, len(self._wishes)
        accounts = {"", *self._member.accounts}
        denied = next((text for (_, account), text in self._denied.items() if account in accounts), "")
        if denied:
            text = f"the lock engine refuses this member, so that exclusive tunnels cannot start: {denied}"
            found[LOCK_DENIED] = Condition(text, "critical", "facilitator doctor", after=5.0)
        elif self._member.silent and exclusive:
            text = f"the lock engine {service} does not answer: {self._member.silent}"
            found[LOCK_AWAY] = Condition(text, "error", "facilitator status", after=self._service.ttl)
        if self._jumped_at is not None and now < self._jumped_at + CLOCK_CONDITION_SECONDS:
            text = (
                "a clock of this host jumped, so that exclusive tunnels had to log in again; keep it in step "
                "(chrony), and do not suspend the machine"
            )
            found["fleet-clock"] = Condition(text, "warning", "timedatectl; chronyc tracking", pages=False)
        return found

    def _keep(self) -> None:
        """Write down what the next daemon needs, when it has changed."""
        member = self._member
        ours = {name: each for name, each in member.accounts.items() if each.phase in OURS}
        ending = (name for name, each in member.accounts.items() if each.phase is LeasePhase.ENDING)
        leaving, held = tuple(sorted(ending)), None
        if member.lease is not None and (ours or leaving):
            held = HeldLocks(
                self._sources.boot,
                self._engine,
                member.lease,
                member.until,
                {name: each.token or 0 for name, each in ours.items()},
                {name: self._granted[name] for name in (*ours, *leaving) if name in self._granted},
                leaving,
            )
        if held != self._kept:
            self._kept = held
            self._sources.keep(held)


def _holder(value: str) -> str:
    """What another member has written into its lock, for people."""
    try:
        said = json.loads(value)
        return f"{said['member']} since {said['since']}"
    except (ValueError, KeyError, TypeError):
        return "somebody who is no facilitator of this version"
