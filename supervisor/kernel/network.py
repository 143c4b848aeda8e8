"""Holds the kernel to the latest plan.

One task does everything: it compares what is wanted with what it believes to be there, and carries out the
difference. Notifications of the kernel are hints on which it reads again; what it finds changed behind its
back it repairs, at a limited rate, and counts.

    set(plan) ----+--> round: look at devices -> diff -> apply
    hints, timer -+           read what was hinted at -> diff -> repair
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from supervisor.core.events import Event, Noticed
from supervisor.core.network.layout import (
    Achieved,
    Change,
    Element,
    HostFeatures,
    Item,
    Layout,
    Op,
    Route,
    Table,
    achieved,
    applied,
    diff,
    open_routes,
    wanted,
)
from supervisor.core.network.plan import NetworkPlan
from supervisor.core.network.rules import Rule
from supervisor.kernel.apply import (
    SHOWN,
    Failure,
    blocks,
    fatal,
    is_drift,
    passing,
    replacing,
    summary,
    without,
)
from supervisor.kernel.conntrack.tunnel_switch import TunnelSwitch
from supervisor.kernel.errors import ERRORS, Occupied, explained, sentence
from supervisor.kernel.interfaces import Interfaces, Presence
from supervisor.kernel.netlink.notifications import EVERYTHING, Heard, KernelPart, Notifications, nobody
from supervisor.kernel.nft.table import OWNER, PERSIST, Nftables
from supervisor.kernel.offload import apart
from supervisor.kernel.route.table import RouteTable
from supervisor.kernel.sysctl import Note, Sysctls
from supervisor.kernel.token_bucket import TokenBucket

DEBOUNCE = 0.003  # seconds in which further hints of the same happening arrive
RESYNC = 60.0  # seconds between two full readings
RETRY = 1.0  # seconds after a refused change
REPAIRS = 20  # repairing rounds in a row before the rate limit counts
CALM = 5.0  # seconds without a foreign change after which a fight is over
REPAIR_RATE = 2.0  # repairing rounds a second after that
FIGHT = "another program keeps changing what is ours in the kernel; repairs are slowed down"

_WHAT: Mapping[type, str] = {Route: "route", Rule: "rule", Table: "table", Element: "element"}


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
        changed: Heard = nobody,
    ) -> None:
        self._post = post
        self._note = note
        self._routes = RouteTable()
        self._nftables = Nftables(table_flags)
        self._interfaces = Interfaces(post, note)
        self._hints = Notifications(
            self._hinted_at, lambda: (self._routes.port, self._nftables.port, self._interfaces.port), changed
        )
        self._sysctls = Sysctls(note)
        self._limiter = TokenBucket(REPAIRS, REPAIR_RATE)
        self._plan = NetworkPlan()
        self._handover = TunnelSwitch(self._wake, note)
        self._aim = NetworkPlan()  # the plan, with lanes still open that are being given up
        self._host = HostFeatures()
        self._actual = Layout()  # as far as we know
        self._hinted: frozenset[KernelPart] = frozenset()
        self._looked: frozenset[str] | None = (
            None  # devices of which nothing changed since they were looked at
        )
        self._presence = Presence(post)
        self._carried: set[int] = set()  # lanes whose route was in since they came up
        self._repairs = Counter(
            dict.fromkeys((*_WHAT.values(), "device"), 0)
        )  # from 0: a first repair must be an increase
        self._told: AbstractSet[str] = frozenset()  # failures that last
        self._fighting = ""  # what is fought about
        self._calm_at = 0.0  # loop time at which a fight will be over
        self._refusals = 0  # rounds with failures, in a row
        self._retry: float | None = None  # loop time
        self._work = asyncio.Event()
        self._planned = asyncio.Event()  # there is a plan that no round has begun with
        self._idle = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def achieved(self) -> Mapping[str, Achieved]:
        """Routes wanted and installed, by tunnel, as far as we know. Computed when asked; safe in any
        thread.
        """
        return achieved(self._plan, self._host, self._actual)

    @property
    def repairs(self) -> Mapping[str, int]:
        """How often something of ours was put back: by route, rule, table, element, sysctl, and device
        (its route went with it).
        """
        return {**self._repairs, "sysctl": self._sysctls.repairs}

    @property
    def conditions(self) -> Mapping[str, str]:
        """What is wrong beyond a single tunnel, by name: an incident each."""
        return {"kernel:fight": self._fighting} if self._fighting else {}

    def set(self, plan: NetworkPlan) -> None:
        """The latest plan wins; returns at once."""
        if plan != self._plan:
            self._plan = plan
            self._carried &= {lane.number for lane in plan.lanes if lane.up}
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
        await self._handover.answered(tunnel)

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
        except ERRORS as error:
            self._release()
            raise explained(error) from error
        worst = next((failure for failure in failures if fatal(failure)), None)
        if worst is not None:
            self._release()
            raise explained(worst[1], worst[0]) from worst[1]
        self._sysctls.tell_of_flows()
        self._open_host()
        self._tell({sentence(*failure) for failure in failures if not passing(failure)})
        self._task = asyncio.create_task(self._hold(), name="kernel")

    async def read(self) -> Layout:
        """What the kernel really holds. NetlinkError, OSError or TimeoutError when it does not answer."""
        return await self._read(EVERYTHING)

    async def compare(self) -> tuple[list[str], list[str]]:
        """What is wanted, and how the kernel really differs from it, one item a line."""
        target = wanted(self._plan, self._host)
        return [str(change.item) for change in diff(Layout(), target)], [
            str(change) for change in diff(await self.read(), target)
        ]

    async def close(self, keep: bool) -> None:
        """End; a second time does nothing.

        `keep`: everything stays as it is, closed for destinations whose tunnel is gone; else all that is ours
        is removed.
        """
        started, self._task = self._task, None
        if started is not None:
            started.cancel()
            await asyncio.gather(started, return_exceptions=True)
        self._hints.close()
        try:
            if started is not None and not keep:
                self._actual = await self.read()
                await self._carry_out(diff(replace(self._actual, table=True), Layout()))
                self._handover.end_all()
        except ERRORS as error:
            self._note(f"could not remove everything: {error}", {})
        finally:
            self._release()

    # --- the task
    # ------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._idle.clear()
        self._work.set()

    def _hinted_at(self, parts: frozenset[KernelPart]) -> None:
        self._hinted |= parts
        if KernelPart.DEVICES in parts:
            self._looked = None
        self._wake()

    async def _begin(self) -> list[Failure]:
        await self._routes.open()
        await self._nftables.open()
        if await self._nftables.occupied():
            raise Occupied
        self._interfaces.open()
        self._hints.open()
        self._look_at_devices()
        await self._prepare(again=True)
        # The table is made anew, in the transaction that removes an old one: so it is ours and of this
        # version.
        self._handover.inherit(found := await self.read())
        self._actual = replace(found, table=False, elements=frozenset())
        return await self._converge()

    async def _hold(self) -> None:
        loop = asyncio.get_running_loop()
        resync = loop.time() + RESYNC
        while True:
            if not self._work.is_set() and not self._handover.under_way:
                self._idle.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(resync, self._retry or resync)):
                    await self._work.wait()
            if loop.time() >= min(resync, self._retry or resync):
                self._hinted, self._looked, self._retry, resync = EVERYTHING, None, None, loop.time() + RESYNC
            self._work.clear()
            try:
                self._tell({sentence(*failure) for failure in await self._round() if not passing(failure)})
            except Exception as error:  # reading failed, or we are wrong: the watch must go on
                self._tell({f"cannot follow the kernel's state: {error!r}"})

    async def _round(self) -> list[Failure]:
        self._planned.clear()
        if self._looked is None or not self._looked >= self._devices():
            self._look_at_devices()
        else:
            self._presence.note(self._plan, self._host)
        self._hinted |= await self._prepare(again=False)
        failures = await self._converge()
        self._open_host()
        if self._hinted:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DEBOUNCE):
                    await self._planned.wait()
                    return failures  # a plan does not wait for the reading, which follows it
            hinted, self._hinted = self._hinted, frozenset()
            self._look_at_devices()
            self._presence.report_lost(self._plan, self._host)
            failures = await self._repair(hinted | await self._prepare(again=KernelPart.ADDRESSES in hinted))
        return failures

    async def _prepare(self, again: bool) -> frozenset[KernelPart]:
        """Interfaces that are new, down or addressed become what they must be, before anything is routed
        into them. What to read then.
        """
        if not await self._interfaces.prepare(self._plan, self._host, again):
            return frozenset()
        self._look_at_devices()
        return frozenset(
            {KernelPart.ROUTES}
        )  # the kernel takes routes away with an interface's last address, and does not say so

    def _look_at_devices(self) -> None:
        """Routes over a device that vanished, was made anew or went down are gone, without a word from the
        kernel.
        """
        before, self._looked = self._host.devices, self._devices()
        self._host = self._routes.host(self._looked)
        devices = self._host.devices
        same = {
            name
            for name in devices.keys() & before.keys()
            if devices[name].up and devices[name].index == before[name].index
        }
        dead = [
            route for route in self._actual.routes if route.device is not None and route.device not in same
        ]
        if dead:
            self._actual = replace(self._actual, routes=self._actual.routes.difference(dead))
        self._sysctls.move_reverse_path_filter()
        for name in devices.keys() - {"lo"}:
            self._sysctls.accept_replies(name)
            if name not in before or before[name].index != devices[name].index or self._hinted >= EVERYTHING:
                self._sysctls.distrust(name)
        self._presence.note(self._plan, self._host)

    def _devices(self) -> frozenset[str]:
        """Those that the plan or what we believe to be there is about."""
        names = {lane.device for lane in self._plan.lanes} | {route.device for route in self._actual.routes}
        return frozenset(name for name in names if name is not None)

    def _open_host(self) -> None:
        """Let packets through: when everything that closes is in place, and again when somebody changed
        that.
        """
        ipv6 = any(carry.network.version == 6 for carry in self._plan.carries)
        self._sysctls.open_host(ipv6, self._devices(), self._plan.accounting)

    async def _converge(self) -> list[Failure]:
        """From what we believe to what is wanted."""
        self._aim = await self._handover.keep_open(self._plan, self._host)
        done, failures = await self._carry_out(await self._missing(self._actual))
        self._count_devices(done)
        self._handover.reached(self._aim)
        return failures

    async def _missing(self, actual: Layout) -> Sequence[Change]:
        """What must change."""

        def compare(plan: NetworkPlan, host: HostFeatures) -> Sequence[Change]:
            return diff(actual, wanted(plan, host))

        return await apart(len(actual.elements) + len(self._aim.carries), compare, self._aim, self._host)

    async def _repair(self, hinted: frozenset[KernelPart]) -> list[Failure]:
        """Read again, and go on from there. What others changed is put back, unless that has become a
        fight.
        """
        author = self._hints.take_author() if KernelPart.TABLE in hinted else ""
        found = await self._read(hinted)
        self._look_at_devices()  # again: what was just read may already be gone with its device
        believed = self._actual
        changes = await self._missing(found)
        drift = [change for change in changes if is_drift(change, believed)]
        now = asyncio.get_running_loop().time()
        self._calm_at = now + CALM if drift else self._calm_at
        if drift and not self._limiter.take(now):
            self._later(self._limiter.wait)
            if not self._fighting:
                self._note(FIGHT, summary(drift))
            self._fight(f"{FIGHT}: {', '.join(map(str, drift[:SHOWN]))}")
            return []
        if drift and not self._fighting:
            by = {"by": author} if author and any(change.concerns_nftables for change in drift) else {}
            self._note("repairing what was changed from outside", summary(drift) | by)
        if self._fighting and now < self._calm_at:
            self._later(self._calm_at - now)
        else:
            self._fight("")
        self._actual = found
        done, failures = await self._carry_out(changes)
        rebuilt = Change(Op.ADD, Table()) in done
        repaired = [
            c for c in done if is_drift(c, believed) and not (rebuilt and isinstance(c.item, Element))
        ]
        self._repairs.update(_WHAT[type(change.item)] for change in repaired)
        self._count_devices([change for change in done if not is_drift(change, believed)])
        return failures

    def _fight(self, about: str) -> None:
        """Remember, and tell the engine when a fight has begun or ended."""
        before, self._fighting = self._fighting, about
        if bool(before) != bool(about):
            self._post(Noticed(""))

    def _count_devices(self, done: Sequence[Change]) -> None:
        """A device that came back while its lane was up: the kernel had taken our route away with it."""
        new = {
            change.item
            for change in done
            if isinstance(change.item, Route) and change.item.device is not None
        }
        tables = {route.table for route in new}
        for lane in self._plan.lanes:
            if (
                lane.device is None
                or not lane.up
                or (lane.number not in tables and lane.number in self._carried)
            ):
                continue  # nearly all of them, at each change
            routes = set(open_routes(lane, self._host))
            self._repairs["device"] += bool(routes & new) and lane.number in self._carried
            if routes & self._actual.routes:
                self._carried.add(lane.number)

    def _tell(self, failures: AbstractSet[str]) -> None:
        """Log each failure once while it lasts, and try again, later each time."""
        for text in sorted(failures - self._told):
            self._note(text, {})
        self._told = failures
        self._refusals = self._refusals + 1 if failures else 0
        if failures:
            self._later(min(RESYNC, RETRY * 2.0 ** (self._refusals - 1)))

    def _later(self, seconds: float) -> None:
        due = asyncio.get_running_loop().time() + seconds
        self._retry = due if self._retry is None else min(self._retry, due)

    # --- reading and writing
    # ---------------------------------------------------------------------------------------------

    async def _read(self, parts: frozenset[KernelPart]) -> Layout:
        layout, versions = self._actual, self._host.versions
        if parts & {KernelPart.ROUTES, KernelPart.DEVICES, KernelPart.ADDRESSES}:
            found = await self._routes.routes(versions)
            layout = replace(
                layout, routes=layout.routes if found == layout.routes else found
            )  # the same objects: compared at once
        if KernelPart.RULES in parts:
            layout = replace(layout, rules=await self._routes.rules(versions))
        if KernelPart.TABLE in parts:
            state = await self._nftables.read()
            layout = replace(layout, table=state.intact, elements=state.elements)
        return layout

    async def _carry_out(self, changes: Sequence[Change]) -> tuple[list[Change], list[Failure]]:
        """Change by change, nftables in one transaction. A newer plan ends it: the next round goes on from
        what was reached.
        """
        done: list[Change] = []
        failures: list[Failure] = []
        plan, take_place = self._plan, await apart(len(changes), replacing, changes, self._actual)
        try:
            for block in await apart(len(changes), blocks, changes):
                if self._plan is not plan:
                    break
                try:
                    failed = await self._change(block, take_place)
                except ERRORS as error:  # of nothing in the block is it known that it was done
                    failures.append((block[0], error))
                    continue
                failures += failed
                done += without(block, failed) if failed else block
        finally:
            self._actual = await apart(len(done), applied, self._actual, done)
        return done, failures

    async def _change(self, block: Sequence[Change], take_place: AbstractSet[Item]) -> list[Failure]:
        if block[0].concerns_nftables:
            await self._nftables.commit(block)
            return []
        said = await self._routes.change_all(block, self._host, take_place)
        return [(change, error) for change, error in zip(block, said, strict=True) if error is not None]

    def _release(self) -> None:
        self._handover.close()
        self._hints.close()
        self._interfaces.close()
        self._routes.close()
        self._nftables.close()
