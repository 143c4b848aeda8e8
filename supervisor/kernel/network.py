"""Reconciles the kernel with the latest plan.

One task does everything: it compares what is wanted with what it believes to be there, and carries out the
difference. Notifications of the kernel are hints on which it reads again; what others changed is drift, which
`core.network.drift` judges: it is repaired, at a limited rate, and counted.

    set(plan) ----+--> round: look at devices -> diff -> carry out
    hints, timer -+           read what was hinted at -> diff -> judge -> repair
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from supervisor.core.events import Event, Noticed
from supervisor.core.network.changes import Change, Op, diff
from supervisor.core.network.drift import (
    DriftGuard,
    RateLimited,
    Repair,
    follow_devices,
    is_drift,
    judge,
    no_repairs,
    repair_counts,
    summary,
)
from supervisor.core.network.layout import Layout, Route
from supervisor.core.network.plan import NetworkPlan
from supervisor.core.network.wanted import RouteCounts, route_counts, wanted
from supervisor.kernel.comparison import missing
from supervisor.kernel.conntrack.denied import DeniedSources
from supervisor.kernel.conntrack.tunnel_switch import TunnelSwitch
from supervisor.kernel.errors import Failure, Occupied, explained, is_fatal, is_passing, reason, sentence
from supervisor.kernel.interfaces import Interfaces, Presence
from supervisor.kernel.members import MemberLinks
from supervisor.kernel.nft.messages import OWNER, PERSIST
from supervisor.kernel.notifications import EVERYTHING, Callback, KernelPart, Notifications, ignore
from supervisor.kernel.people import PeopleAccess
from supervisor.kernel.state import KernelState
from supervisor.kernel.sysctl import FirstValues, Note, Sysctls, put_back

DEBOUNCE_SECONDS = 0.003  # in which further notifications of the same happening arrive
RESYNC_SECONDS = 60.0  # between two full readings
RETRY_SECONDS = 1.0  # after a refused change; twice as long after each further one


class KernelNetwork:
    """The engine's `Network`.

    `post` takes DeviceLost, AddressConflict, and Noticed when `conditions` changes; `note` takes lines for
    the log; `changed` is called whenever somebody else has changed something in the kernel.
    """

    def __init__(
        self,
        post: Callable[[Event], None],
        note: Note,
        table_flags: int = OWNER | PERSIST,
        changed: Callback = ignore,
        first: FirstValues | None = None,
    ) -> None:
        self._post = post
        self._note = note
        self._kernel = KernelState(table_flags)
        self._interfaces = Interfaces(self._kernel.routes.netlink, post, note)
        self._members = MemberLinks(self._kernel.routes.netlink, note)
        self._hints = Notifications(self._hinted_at, lambda: self._kernel.ports, changed)
        self._first = first
        self._sysctls = Sysctls(note, first=first)
        self._plan = NetworkPlan()
        self._switch = TunnelSwitch(self._wake, note)
        self._denials = DeniedSources(note)
        self.people = PeopleAccess(self._kernel.nftables, note)
        self._target = NetworkPlan()  # the plan, with lanes still open that are being given up
        self._hinted: frozenset[KernelPart] = frozenset()
        self._devices_fresh: frozenset[str] | None = None  # those of which nothing changed since we looked
        self._presence = Presence(post)
        self._lanes_with_route: frozenset[int] = frozenset()  # whose route was in since they came up
        self._guard = DriftGuard()
        self._repairs = no_repairs()
        self._reported: AbstractSet[str] = frozenset()  # failures that last
        self._failed_rounds = 0  # in a row
        self._retry_at: float | None = None  # loop time
        self._work = asyncio.Event()
        self._planned = asyncio.Event()  # there is a plan that no round has begun with
        self._idle = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._admitting: asyncio.Task[None] | None = None

    @property
    def route_counts(self) -> Mapping[str, RouteCounts]:
        """Routes wanted and installed, by tunnel, as far as we know. Computed when asked; safe in any
        thread.
        """
        return route_counts(self._plan, self._kernel.host, self._kernel.layout)

    @property
    def repairs(self) -> Mapping[str, int]:
        """How often something of ours was put back: by route, rule, table, element, sysctl, interface (its
        address, its MTU, that it is up), and device (its route went with it).
        """
        return {**self._repairs, "sysctl": self._sysctls.repairs, "interface": self._interfaces.repairs}

    @property
    def closed_since(self) -> float | None:
        """Seconds since the epoch at which the host was closed, by us or before us; None: not known."""
        return self._kernel.nftables.closed_since

    @property
    def conditions(self) -> Mapping[str, str]:
        """What is wrong beyond a single tunnel, by name: an incident each."""
        return {"kernel:fight": self._guard.fighting} if self._guard.fighting else {}

    def set(self, plan: NetworkPlan) -> None:
        """The latest plan wins; returns at once."""
        if plan != self._plan:
            self._plan = plan
            self._lanes_with_route &= {lane.number for lane in plan.lanes if lane.up}
            self.people.follow(plan)
            self._planned.set()
            self._wake()

    async def settled(self) -> None:
        """Wait until the latest plan and all hints so far were worked on, with success or not; flows that
        move were moved.
        """
        await self._idle.wait()

    async def released(self, tunnel: str) -> None:
        """Wait until the latest plan was worked on, and for answers to what went through a tunnel whose
        flows were moved by it.
        """
        await self.settled()
        await self._switch.answered(tunnel)

    async def permit(self, ends: Mapping[int, float]) -> None:
        """Exclusive clients of these lanes, and no others, may send until these moments (monotonic seconds).
        Before `start` it is what the table is made with. OSError.
        """
        if self._task is None:
            self._kernel.nftables.expect(ends)
        else:
            await self._kernel.nftables.permit(ends)

    async def start(self, plan: NetworkPlan) -> None:
        """Bring the first plan in completely, then let packets through, then keep watch.

        MissingRight without CAP_NET_ADMIN; Occupied beside another one; KernelError when the kernel refuses
        what must not be missing.
        """
        self._plan = plan
        try:
            failures = await self._begin()
        except Occupied:
            self._release()
            raise
        except OSError as error:
            self._release()
            raise explained(error) from error
        worst = next((failure for failure in failures if is_fatal(failure)), None)
        if worst is not None:
            self._release()
            raise explained(worst[1], worst[0]) from worst[1]
        self._sysctls.tell_of_flows()
        self._open_host()
        self._report_failures(failures)
        self.people.follow(plan)
        self._task = asyncio.create_task(self._hold(), name="kernel")
        self._admitting = asyncio.create_task(self.people.run(), name="people")

    async def read(self) -> Layout:
        """What the kernel really holds. OSError when it does not answer."""
        return await self._kernel.read()

    async def compare(self) -> tuple[list[str], list[str]]:
        """What is wanted, and how the kernel really differs from it, one item a line."""
        target = wanted(self._plan, self._kernel.host)
        return [str(change.item) for change in diff(Layout(), target)], [
            str(change) for change in diff(await self.read(), target)
        ]

    async def close(self, keep: bool) -> None:
        """End; a second time does nothing.

        `keep`: everything stays as it is, closed for destinations whose tunnel is gone; else all that is ours
        is removed, and the host's settings are put back.
        """
        started, self._task = self._task, None
        for task in (started, self._admitting):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._hints.close()
        try:
            if started is not None and not keep:
                if self._first is not None:
                    for line in put_back(self._first):  # before anything that closes goes
                        self._note(line, {})
                self._kernel.layout = await self.read()
                await self._carry_out(diff(replace(self._kernel.layout, table=True), Layout()))
                await self._members.prepare((), self._kernel.host, again=True)
                self._switch.end_all()
        except OSError as error:
            self._note(f"could not remove everything: {reason(error)}", {})
        finally:
            self._release()

    # --- the task

    def _wake(self) -> None:
        self._idle.clear()
        self._work.set()

    def _hinted_at(self, parts: frozenset[KernelPart]) -> None:
        self._hinted |= parts
        if KernelPart.DEVICES in parts:
            self._devices_fresh = None
        self._wake()

    async def _begin(self) -> list[Failure]:
        self._kernel.open()
        if await self._kernel.nftables.occupied():
            raise Occupied
        self._hints.open()
        self._look_at_devices()
        await self._prepare(again=True)
        # The table is recreated, in the transaction that removes an old one: so it is ours and of this
        # version.
        self._switch.inherit(found := await self.read())
        self._kernel.layout = replace(found, table=False, elements=frozenset())
        return await self._converge()

    async def _hold(self) -> None:
        loop = asyncio.get_running_loop()
        resync = loop.time() + RESYNC_SECONDS
        while True:
            if not self._work.is_set() and not self._switch.under_way:
                self._idle.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(resync, self._retry_at or resync)):
                    await self._work.wait()
            if loop.time() >= min(resync, self._retry_at or resync):
                self._hinted, self._devices_fresh, self._retry_at = EVERYTHING, None, None
                resync = loop.time() + RESYNC_SECONDS
            self._work.clear()
            try:
                self._report_failures(await self._round())
            except Exception as error:  # reading failed, or we are wrong: the watch must go on
                self._report({f"cannot follow the kernel's state: {error!r}"})

    async def _round(self) -> list[Failure]:
        self._planned.clear()
        if self._devices_fresh is None or not self._devices_fresh >= self._devices():
            self._look_at_devices()
        else:
            self._presence.note(self._plan, self._kernel.host)
        self._hinted |= await self._prepare(again=False)
        failures = await self._converge()
        self._open_host()
        if self._hinted:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DEBOUNCE_SECONDS):
                    await self._planned.wait()
                    return failures  # a plan does not wait for the reading, which follows it
            hinted, self._hinted = self._hinted, frozenset()
            self._look_at_devices()
            self._presence.report_lost(self._plan, self._kernel.host)
            failures = await self._repair(hinted | await self._prepare(again=KernelPart.ADDRESSES in hinted))
        return failures

    async def _prepare(self, again: bool) -> frozenset[KernelPart]:
        """Interfaces that are new, down or addressed become what they must be, before anything is routed
        into them. What to read then.
        """
        changed = await self._members.prepare(self._plan.members, self._kernel.host, again)
        self._kernel.shared = self._members.shared
        if not await self._interfaces.prepare(self._plan, self._kernel.host, again) and not changed:
            return frozenset()
        self._look_at_devices()
        # The kernel takes routes away with an interface's last address, and does not say so.
        return frozenset({KernelPart.ROUTES})

    def _look_at_devices(self) -> None:
        """Read the state of our interfaces, and set what the kernel's settings for each must be."""
        self._devices_fresh = self._devices()
        before = self._kernel.look_at_devices(self._devices_fresh)
        devices = self._kernel.host.devices
        self._sysctls.move_reverse_path_filter()
        for name in devices.keys() - {"lo"} - self._foreign():
            self._sysctls.accept_replies(name)
            if name not in before or before[name].index != devices[name].index or self._hinted >= EVERYTHING:
                self._sysctls.distrust(name)
        self._presence.note(self._plan, self._kernel.host)

    def _devices(self) -> frozenset[str]:
        """Those that the plan or what we believe to be there is about."""
        routed = {route.device for route in self._kernel.layout.routes if route.device is not None}
        return self._plan.devices | routed | self._foreign()

    def _foreign(self) -> frozenset[str]:
        """Interfaces of the host that lead to other members of the fleet: they are not ours to set up."""
        return frozenset(self._kernel.shared.values())

    def _open_host(self) -> None:
        """Let packets through: when everything that closes is in place, and again when somebody changed
        that.
        """
        ipv6 = any(carry.network.version == 6 for carry in self._plan.carries)
        self._sysctls.open_host(ipv6, self._devices() - self._foreign(), self._plan.accounting)

    async def _converge(self) -> list[Failure]:
        """From what we believe to what is wanted."""
        self._target = await self._switch.keep_open(self._plan, self._kernel.host)
        changes = await missing(self._kernel.layout, self._target, self._kernel.host)
        done, failures = await self._carry_out(changes)
        self._count_devices(done)
        self._switch.reached(self._target)
        await self._denials.reached(self._target.denied)
        return failures

    async def _repair(self, hinted: frozenset[KernelPart]) -> list[Failure]:
        """Read again, and go on from there. What others changed is put back, unless that has become a
        fight.
        """
        author = self._hints.take_author() if KernelPart.TABLE in hinted else ""
        found = await self._kernel.read(hinted)
        self._look_at_devices()  # again: what was just read may already be gone with its device
        believed = self._kernel.layout
        changes = await missing(found, self._target, self._kernel.host)
        verdict = judge(believed, changes, self._guard, asyncio.get_running_loop().time())
        self._heed(verdict, author)
        if isinstance(verdict, RateLimited):
            return []
        self._kernel.layout = found
        done, failures = await self._carry_out(changes)
        self._repairs.update(repair_counts(done, believed))
        self._count_devices([change for change in done if not is_drift(change, believed)])
        return failures

    def _heed(self, verdict: Repair | RateLimited, author: str) -> None:
        """Log what was announced, look again when it is time, and tell the engine when a fight begins or
        ends.
        """
        before, self._guard = self._guard, verdict.guard
        if verdict.announcement:
            nftables = any(change.concerns_nftables for change in verdict.drift)
            by = {"by": author} if author and nftables else {}
            self._note(verdict.announcement, summary(verdict.drift) | by)
        if verdict.recheck_seconds is not None:
            self._later(verdict.recheck_seconds)
        if bool(before.fighting) != bool(verdict.guard.fighting):
            self._post(Noticed(""))

    async def _carry_out(self, changes: Sequence[Change]) -> tuple[list[Change], list[Failure]]:
        """A newer plan ends it: the next round goes on from what was reached."""
        plan = self._plan
        return await self._kernel.carry_out(changes, lambda: self._plan is plan)

    def _count_devices(self, done: Sequence[Change]) -> None:
        """Count the routes that came back with their interfaces."""
        added = {
            change.item
            for change in done
            if change.op is Op.ADD and isinstance(change.item, Route) and change.item.device is not None
        }
        back, self._lanes_with_route = follow_devices(
            self._plan.lanes, self._kernel.host, self._kernel.layout.routes, added, self._lanes_with_route
        )
        self._repairs["device"] += back

    def _report_failures(self, failures: Iterable[Failure]) -> None:
        self._report({sentence(*failure) for failure in failures if not is_passing(failure)})

    def _report(self, failures: AbstractSet[str]) -> None:
        """Log each failure once while it lasts, and try again, later each time."""
        for text in sorted(failures - self._reported):
            self._note(text, {})
        self._reported = failures
        self._failed_rounds = self._failed_rounds + 1 if failures else 0
        if failures:
            self._later(min(RESYNC_SECONDS, RETRY_SECONDS * 2.0 ** (self._failed_rounds - 1)))

    def _later(self, seconds: float) -> None:
        due = asyncio.get_running_loop().time() + seconds
        self._retry_at = due if self._retry_at is None else min(self._retry_at, due)

    def _release(self) -> None:
        self._switch.close()
        self._hints.close()
        self._kernel.close()
