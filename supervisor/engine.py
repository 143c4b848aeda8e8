"""The one loop: inbox -> fold -> plan -> publish -> terminate.

Everything that happens comes as an event through the inbox; there is no other way in. Processes are driven by
actions (edge-triggered); routes, probes and incidents are functions of the snapshot (level-triggered: `set`
may be late, fail or be repeated, the next one heals it). What events mean is decided in
`core.session.tunnel_set`; `supervisor.outputs` is all that the engine knows about the world.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from supervisor.core import events as ev
from supervisor.core.alerting.grouping import SharedCause, shared_causes
from supervisor.core.alerting.incidents import IncidentState, decide, inherit
from supervisor.core.alerting.verdict import Alert
from supervisor.core.conditions import Condition, of_snapshot, visible
from supervisor.core.faults import Faults
from supervisor.core.fleet.announcements import NOTICE_SECONDS, Announcements, announce, with_announcements
from supervisor.core.network.compose import Scope, compose
from supervisor.core.network.failover import Carriers, contested, recalled
from supervisor.core.network.lanes import lane_of
from supervisor.core.network.plan import NetworkPlan, assign_lanes
from supervisor.core.session.deadlines import reached
from supervisor.core.session.fault_retry import PostponedSteps
from supervisor.core.session.handover import planning
from supervisor.core.session.record import PreviousRun, TunnelRecord, recorded, revive, revive_nothing
from supervisor.core.session.tunnel_set import TunnelSet, TunnelSetStep, fold, neighbours
from supervisor.core.snapshot import Snapshot, Transition
from supervisor.core.state import Known, Phase
from supervisor.delivery import Delivery, PublicationPace, flow_jobs, probe_jobs
from supervisor.inbox import Inbox
from supervisor.outputs import Outputs
from tunnels.base import AnyKind, Reason
from tunnels.networks import IPAddress
from tunnels.settings import Tunnel


class Stage(enum.Enum):
    """A part of a turn that is done."""

    TAKEN = "taken"  # events are folded, new clients are ordered
    PLANNED = "planned"  # the kernel was given the new plan
    PUBLISHED = "published"  # everybody else knows
    TERMINATED = "terminated"  # clients that are not needed any more were asked to end


@dataclass(slots=True)
class _Due:
    """When the engine has to act without an event. Moments are monotonic seconds."""

    turn: float | None = None  # the next turn
    alerts: float | None = None
    plan: float | None = None


class Engine:
    """Holds all tunnels and drives them; `turn` is the whole logic, `run` only waits."""

    def __init__(
        self,
        inbox: Inbox,
        outputs: Outputs,
        kinds: Mapping[str, AnyKind],
        *,
        clock: Callable[[], float],
        chance: Callable[[], float],
        utc_offset: Callable[[], float] = lambda: 0.0,
        faults: Faults | None = None,
    ) -> None:
        """`clock` gives monotonic seconds, `chance` a number in [0, 1), `utc_offset` what turns the former
        into local time.

        `faults` contains those of one output and those of one tunnel: the others go on.
        """
        self._inbox, self._clock, self._chance, self._utc_offset = inbox, clock, chance, utc_offset
        self._faults = faults or Faults(clock)
        self._out = Delivery(outputs, self._faults, clock)
        self._tunnel_set = TunnelSet(kinds)
        self._known: Mapping[str, Known] = {}
        self._waiters: dict[asyncio.Future[None], Callable[[Snapshot], bool]] = {}
        self._lanes: dict[str, int] = {}
        self._scope = Scope("", ())
        self._denials: dict[str, tuple[IPAddress, ...]] = {}
        self._due = _Due()
        self._pace = PublicationPace(clock)
        self._carriers: Carriers = {}
        self._announcements = Announcements()
        self._parting: list[tuple[Tunnel, ev.Terminate]] = []
        self._postponed = PostponedSteps()
        self._ties: dict[str, tuple[SharedCause, ...]] = {}
        self._incidents = IncidentState()
        self._alerts: Mapping[str, Alert] = {}
        self._noticed: Mapping[str, float] = {}  # conditions: since when
        self._memory = PreviousRun()
        self._unrecorded: list[tuple[Transition, Snapshot]] = []
        self._unkept: set[str] = set()  # tunnels of which the keepers do not know the latest
        self.plan = NetworkPlan()

    # --- what goes in
    # ----------------------------------------------------------------------------------------------------

    def configure(
        self,
        scope: Scope,
        tunnels: Mapping[str, Tunnel],
        *,
        held: Container[str],
        restart: Container[str] = (),
    ) -> None:
        """Take over a configuration: new tunnels start (unless `held`), those in `restart` reconnect,
        the missing ones end.
        """
        now = self._clock()
        self._scope = replace(scope, denied=self._scope.denied)
        missing = self._tunnel_set.members.keys() - tunnels.keys()
        back = self._tunnel_set.leaving & tunnels.keys()
        leaving = (self._tunnel_set.leaving - back) | missing
        notice = 0.0 if scope.announcing is None else NOTICE_SECONDS
        self._tunnel_set = replace(self._tunnel_set, leaving=leaving, notice=notice)
        for name in missing:
            self._inbox.post(ev.Asked(name, reason=Reason.STOPPED))
        for name, tunnel in tunnels.items():
            anew = name in restart or name in back
            self._configure(tunnel, now, held=name in held, anew=anew)
        every = self._tunnel_set.tunnels
        self._lanes = assign_lanes(list(every), self._lanes)
        shared = neighbours(every, self._tunnel_set.kinds)
        pacer = self._tunnel_set.pacer
        for name in self._memory.records.keys() & shared.gateways.keys():
            pacer = pacer.recalled(shared.gateways[name], self._tunnel_set.members[name][1])
        self._tunnel_set = replace(self._tunnel_set, neighbours=shared, pacer=pacer)
        self._ties = shared_causes(every, shared.gateways)
        self._memory = PreviousRun()
        self._unkept |= every.keys()
        self._publish_plan()
        self._publish_rest()

    def _configure(self, tunnel: Tunnel, now: float, *, held: bool, anew: bool) -> None:
        name, members = tunnel.name, self._tunnel_set.members
        kind = self._tunnel_set.kinds[tunnel.kind]
        if name not in members:
            self._begin(tunnel, now, held=held, anew=anew)
        else:
            self._tunnel_set = self._tunnel_set.with_member(tunnel, members[name][1])
            if anew and not held:
                self._inbox.post(ev.Asked(name, reason=Reason.RECONFIGURED))
        state = self._tunnel_set.members[name][1]
        if state.phase is Phase.UP:
            about = (tunnel, kind, state, self._chance(), self._utc_offset())
            self._tunnel_set = self._tunnel_set.with_state(
                name, self._faults.ask(_part(name), state, planning, *about)
            )

    def _begin(self, tunnel: Tunnel, now: float, *, held: bool, anew: bool) -> None:
        """A tunnel that is new to us: where an earlier daemon has left it, or from nothing."""
        name, memory, ask = tunnel.name, self._memory, self._faults.ask
        kind = self._tunnel_set.kinds[tunnel.kind]
        begun = ask(_part(name), None, revive, name, memory, kind, now, held=held, anew=anew)
        begun = begun or revive_nothing(name, memory, now, held=held)
        state = replace(begun.state, known=self._known.get(name, begun.state.known))
        self._tunnel_set = self._tunnel_set.with_member(tunnel, state)
        self._parting += [(tunnel, order) for order in begun.orders]
        for event in begun.events:
            self._inbox.post(event)

    def adopt(self, memory: PreviousRun, tunnels: Mapping[str, Tunnel]) -> None:
        """Go on from what an earlier daemon has left; before the first configuration, which names these
        tunnels.
        """
        self._memory = memory
        self._tunnel_set = replace(self._tunnel_set, draining=memory.ends_by is not None)
        self._lanes = memory.lanes
        self._carriers = recalled(list(tunnels.values()), memory.carries)

    def resume(self, incidents: frozenset[str]) -> None:
        """Names of the incidents that an earlier run left open; before the first configuration."""
        self._incidents = inherit(incidents, self._clock())

    def remember(self, known: Mapping[str, Known]) -> None:
        """What earlier runs have learned about remote gateways, by tunnel; before the first configuration."""
        self._known = known

    def deny(self, sources: tuple[IPAddress, ...], by: str = "fleet") -> None:
        """`DemandableEngine.deny`; what others than `by` have asked for stays."""
        if sources != self._denials.get(by, ()):
            self._denials[by] = sources
            self._scope = replace(self._scope, denied=sum(self._denials.values(), ()))
            self._inbox.post(ev.Noticed(""))

    def drain(self, until: float | None = None) -> None:
        """Take nothing new from now on; each tunnel ends when its flows are over, at the latest `until`
        (see `drained_by`).
        """
        self._tunnel_set = replace(self._tunnel_set, draining=True)
        end = self.drained_by() if until is None else until
        for name in self._tunnel_set.members:
            self._inbox.post(ev.Asked(name, reason=Reason.SHUTDOWN, until=end))

    def drained_by(self) -> float:
        """The moment (monotonic seconds) at which a drain that begins now is over at the latest."""
        return self._clock() + self._scope.timeout

    # --- what comes out
    # --------------------------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """All of it takes nothing new and is about to end."""
        return self._tunnel_set.draining

    @property
    def snapshot(self) -> Snapshot:
        """All tunnels now."""
        return self._tunnel_set.snapshot(self._clock())

    @property
    def conditions(self) -> Mapping[str, Condition]:
        """What is wrong and needs nobody to explain it, by name."""
        return visible(self._noticed, self._found(), self._clock()).shown

    def _found(self) -> dict[str, Condition]:
        return self._out.conditions | self._faults.conditions | of_snapshot(self.snapshot)

    def tunnel(self, name: str) -> Tunnel:
        """Its settings. KeyError: there is no such tunnel."""
        return self._tunnel_set.members[name][0]

    def lane(self, tunnel: str, slot: int) -> int | None:
        """The lane of one of the tunnel's slots."""
        return lane_of(self._lanes[tunnel], slot) if tunnel in self._lanes else None

    def overdue(self) -> float:
        """Seconds by which the loop is late for its nearest deadline: a measure of whether it still turns."""
        return 0.0 if self._due.turn is None else max(0.0, self._clock() - self._due.turn)

    def records(self, names: Iterable[str]) -> dict[str, TunnelRecord | None]:
        """What a later daemon goes on from; None: there is no such tunnel."""
        return recorded(names, self._tunnel_set.members, self._lanes, self._carriers)

    async def wait_for(self, condition: Callable[[Snapshot], bool]) -> None:
        """Return as soon as the snapshot satisfies the condition."""
        if condition(self.snapshot):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[future] = condition
        try:
            await future
        finally:
            del self._waiters[future]

    # --- the loop
    # ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Wait for the inbox or the nearest deadline, for ever."""
        while True:
            wait = None if self._due.turn is None else max(0.0, self._due.turn - self._clock())
            for _ in self.turn(await self._inbox.wait(wait)):
                await asyncio.sleep(0)  # others act on this stage before the next one

    @property
    def unpublished(self) -> bool:
        """Only the clients know the latest."""
        return self._pace.due is not None

    @property
    def due(self) -> float | None:
        """The moment (monotonic seconds) of the next turn, unless an event comes before."""
        return self._due.turn

    def turn(self, events: Iterable[ev.Event]) -> Iterator[Stage]:
        """Take the events and the deadlines that are reached, and publish what has changed, stage by stage.
        Between two stages the caller lets the rest of the daemon act: clients start before the rest follows
        from that, and what they report meanwhile is in the first plan. A turn that changes nothing has no
        stages.
        """
        changed = self._take(events)
        if changed:
            yield Stage.TAKEN
            self._take(self._inbox.take())
            self._pace.ask()
        now = self._clock()
        if _is_due(self._pace.due, now) or self._out.due(now) or _is_due(self._due.plan, now):
            with self._pace.published():
                self._publish_plan()
            yield Stage.PLANNED
            with self._pace.published():
                self._publish_rest()
            yield Stage.PUBLISHED
        elif self._pace.due is None and _is_due(self._due.alerts, now):
            self._publish_alerts()
        if self._pace.due is None and self._parting:
            parting, self._parting = self._parting, []
            for leaving, order in parting:  # after the plan: traffic moves to another tunnel first
                self._out.order(leaving, order)
            yield Stage.TERMINATED
        self._due.turn = self._next()

    def _take(self, events: Iterable[ev.Event]) -> bool:
        """Fold the events and the deadlines that are reached; True when something changed that outputs depend
        on.
        """
        now = self._clock()
        changed = [self._apply(event, now) for event in (*self._postponed.due(now), *events)]
        members, due = self._tunnel_set.members, self._tunnel_set.deadlines.due(now)
        for name in [name for name in members if name in due] if due else ():
            if name not in self._postponed:
                changed += [self._apply(event, now) for event in reached(name, members[name][1], now)]
        return any(changed)

    def _apply(self, event: ev.Event, now: float) -> bool:
        """Fold one event and what follows from it. One that fails leaves everything as it was."""
        part = _part(event.tunnel) if event.tunnel else "tunnels"
        about = (self._tunnel_set, event, now, self._chance(), self._utc_offset())
        step = self._faults.ask(part, None, fold, *about)
        if step is None:
            self._postponed.postpone(event, now)
            return False
        self._follow(step, event.tunnel)
        return any([step.changed, *[self._apply(each, now) for each in step.events]])

    def _follow(self, step: TunnelSetStep, name: str) -> None:
        """The set of tunnels after a step, with its orders carried out and its records to be written."""
        before, self._tunnel_set = self._tunnel_set, step.tunnel_set
        self._unkept |= step.touched
        self._unrecorded += step.transitions
        for action in step.actions:
            tunnel = before.members[name][0]
            if isinstance(action, ev.Terminate):
                self._parting.append((tunnel, action))
            elif (failed := self._out.order(tunnel, action)) is not None:
                self._inbox.post(failed)
        if name in before.members and name not in step.tunnel_set.members:
            del self._lanes[name]
            self._postponed.forget(name)
            self._faults.forget(_part(name))

    def _next(self) -> float | None:
        ours = (
            self._tunnel_set.deadlines.next(self._postponed.tunnels),
            self._due.alerts if self._pace.due is None else self._pace.due,
            self._due.plan,
            self._out.again,
        )
        moments = [moment for moment in (*ours, *self._postponed.moments) if moment is not None]
        return min(moments, default=None)

    # --- what is published
    # ------------------------------------------------------------------------------------------------------

    def _publish_plan(self) -> None:
        self._out.publish("plan", self._plan_anew)
        self._out.plan(self.plan)

    def _plan_anew(self) -> None:
        before, snapshot = self._carriers, self.snapshot
        made = compose(self._scope, snapshot, self._lanes, self._tunnel_set.kinds, before)
        told = announce(self._scope.announcing, snapshot, made.carriers, self._lanes, self._announcements)
        self._carriers, self._announcements = made.carriers, told
        self.plan = with_announcements(made.plan, self._scope.announcing, told)
        self._due.plan = min((at for at in (made.due, told.due) if at is not None), default=None)
        self._unkept |= contested(before, self._carriers)

    def _publish_rest(self) -> None:
        unrecorded, self._unrecorded = self._unrecorded, []
        for moved_on, then in unrecorded:  # not before the plan: recorders write files
            self._out.record(moved_on, then)
        if self._unkept and self._out.keep(self.records(self._unkept)):
            self._unkept = set()
        members = self._tunnel_set.members
        self._out.probe(probe_jobs(members, self._lanes, self._tunnel_set.kinds, self._movable))
        self._out.count(flow_jobs(members, self._lanes, self._scope.idle))
        self._out.lock(self.snapshot)
        self._out.name(self._scope, self.snapshot, self._lanes)
        self._publish_alerts()
        snapshot = self.snapshot
        for future, condition in list(self._waiters.items()):
            if not future.done() and self._faults.ask("waiter", False, condition, snapshot):
                future.set_result(None)

    def _movable(self, tunnel: str) -> bool:
        """A suspicion moves its flows: another tunnel reaches its destinations, or another member may."""
        return self._scope.announcing is not None or bool(self._tunnel_set.neighbours.rivals.get(tunnel))

    def _publish_alerts(self) -> None:
        self._due.alerts = None
        self._out.publish("alerts", self._judge)
        self._out.alert(self._alerts)

    def _judge(self) -> None:
        sight = visible(self._noticed, self._found(), self._clock())
        self._noticed = sight.since
        self._incidents, self._alerts, due = decide(
            self._scope.facilitator, self._incidents, self.snapshot, sight.shown, self._ties
        )
        moments = [moment for moment in (due, sight.due, self._faults.due) if moment is not None]
        self._due.alerts = min(moments, default=None)


def _is_due(moment: float | None, now: float) -> bool:
    return moment is not None and moment <= now


def _part(tunnel: str) -> str:
    """What a tunnel is called among the parts of the daemon that can fail."""
    return f"tunnel:{tunnel}"
