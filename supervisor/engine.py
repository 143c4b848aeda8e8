"""The one loop: inbox -> step -> perform -> publish.

Everything that happens comes as an event through the inbox; there is no other way in. Processes are driven by
actions (edge-triggered); routes, probes and incidents are functions of the snapshot (level-triggered: `set`
may be late, fail or be repeated, the next one heals it). `supervisor.outputs` is all that the engine knows
about the world.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from supervisor.core import events as ev
from supervisor.core.alerting.grouping import SharedCause, ties
from supervisor.core.alerting.incidents import IncidentState, called, resumed
from supervisor.core.alerting.verdict import Alert
from supervisor.core.conditions import Condition, of_tunnels, seen
from supervisor.core.faults import Faults
from supervisor.core.network.failover import Carriers, choose, contested, recalled
from supervisor.core.network.plan import (
    NetworkPlan,
    Segments,
    assign_lanes,
    desired,
    lane_of,
    next_refusal,
    proxies,
)
from supervisor.core.session.context import KindLimits, StepContext
from supervisor.core.session.fault_retry import Rests
from supervisor.core.session.handover import (
    SessionOutcome,
    concerned,
    planning,
    rivals,
    sides_of,
    step,
    unsettled,
)
from supervisor.core.session.liveness import dead_leg
from supervisor.core.session.pacing import GatewayPacer, login_turn, partners
from supervisor.core.session.record import PreviousRun, TunnelRecord, recorded, revive, revive_nothing
from supervisor.core.session.transitions import moved, public, transition
from supervisor.core.state import Known, Phase, Snapshot, Transition, TunnelState, Uplink
from supervisor.delivery import Delivery, flow_jobs, probe_jobs
from supervisor.inbox import Inbox
from supervisor.outputs import Outputs
from tunnels.base import AnyKind, IPNetwork, Reason
from tunnels.settings import Tunnel


@dataclass(frozen=True, slots=True)
class Scope:
    """What all tunnels have in common."""

    facilitator: str  # name of this facilitator
    staff: tuple[IPNetwork, ...]  # whose traffic may enter
    segments: Segments = field(default_factory=dict)  # named parts of staff
    timeout: float = 8 * 3600.0  # longest time (seconds) that a tunnel which drains waits for its flows
    idle: float = 900.0  # seconds without a packet after which a flow is not waited for
    accounting: bool = False  # of each flow's bytes, for the audit


class Engine:
    """Holds the state of every tunnel and drives it; `advance` is the whole logic, `run` only waits."""

    def __init__(
        self,
        inbox: Inbox,
        outputs: Outputs,
        kinds: Mapping[str, AnyKind],
        *,
        clock: Callable[[], float],
        chance: Callable[[], float],
        zone: Callable[[], float] = lambda: 0.0,
        faults: Faults | None = None,
    ) -> None:
        """`clock` gives monotonic seconds, `chance` a number in [0, 1), `zone` what turns the former into
        local time.

        `faults` contains those of one output and those of one tunnel: the others go on.
        """
        self._inbox, self._kinds, self._clock, self._chance, self._zone = inbox, kinds, clock, chance, zone
        self._faults = faults or Faults(clock)
        self._out = Delivery(outputs, self._faults, clock)
        self._known: Mapping[str, Known] = {}
        self._rivals: Mapping[str, frozenset[str]] = {}
        self._waiters: dict[asyncio.Future[None], Callable[[Snapshot], bool]] = {}
        self._tunnels: dict[str, Tunnel] = {}
        self._states: dict[str, TunnelState] = {}
        self._retiring: set[str] = set()
        self._lanes: dict[str, int] = {}
        self._scope = Scope("", ())
        self._due: float | None = None
        self._alerts_due: float | None = None
        self._carriers: Carriers = {}
        self._parting: list[tuple[Tunnel, ev.Terminate]] = []
        self._turns, self._uplink, self._rests = GatewayPacer(), Uplink(), Rests()
        self._gateways: dict[str, str] = {}
        self._partners: dict[str, tuple[str, ...]] = {}
        self._ties: dict[str, tuple[SharedCause, ...]] = {}
        self._calls = IncidentState()
        self._alerts: Mapping[str, Alert] = {}
        self._noticed: Mapping[str, float] = {}  # conditions: since when
        self._plan_due: float | None = None
        self._memory = PreviousRun()
        self._unrecorded: list[tuple[Transition, Snapshot]] = []
        self._unkept: set[str] = set()  # tunnels of which the keepers do not know the latest
        self.draining = False
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
        """Take over a configuration: new tunnels start (unless `held`), those in `restart` connect anew,
        the missing ones end.
        """
        now = self._clock()
        self._scope = scope
        for name in self._tunnels.keys() - tunnels.keys():
            self._retiring.add(name)
            self._inbox.post(ev.Asked(name, reason=Reason.STOPPED))
        for name, tunnel in tunnels.items():
            fresh = name not in self._tunnels
            anew = name in restart or name in self._retiring
            self._retiring.discard(name)
            self._tunnels[name] = tunnel
            if fresh:
                self._begin(tunnel, now, held=name in held, anew=anew)
            elif anew and name not in held:
                self._inbox.post(ev.Asked(name, reason=Reason.RECONFIGURED))
            if self._states[name].phase is Phase.UP:
                state, about = self._states[name], (self._limits(tunnel), self._chance(), self._zone())
                self._states[name] = self._faults.ask(_part(name), state, planning, tunnel, state, *about)
        self._lanes = assign_lanes(list(self._tunnels), self._lanes)
        self._gateways = {
            name: at
            for name, t in self._tunnels.items()
            if (at := self._kinds[t.kind].endpoint(t)) is not None
        }
        self._partners = partners(self._tunnels)
        self._ties = ties(self._tunnels, self._gateways)
        for name in self._memory.records.keys() & self._gateways.keys():
            self._turns.recall(self._gateways[name], self._states[name])
        self._memory = PreviousRun()
        self._unkept |= self._tunnels.keys()
        self._rivals = rivals(self._tunnels.values())
        self._publish_plan()
        self._publish_rest()

    def _begin(self, tunnel: Tunnel, now: float, *, held: bool, anew: bool) -> None:
        """A tunnel that is new to us: where an earlier daemon has left it, or from nothing."""
        name, memory, limits, ask = tunnel.name, self._memory, self._limits(tunnel), self._faults.ask
        begun = ask(_part(name), None, revive, name, memory, limits, now, held=held, anew=anew)
        begun = begun or revive_nothing(name, memory, limits, now, held=held)
        self._states[tunnel.name] = replace(
            begun.state, known=self._known.get(tunnel.name, begun.state.known)
        )
        self._parting += [(tunnel, order) for order in begun.orders]
        for event in begun.events:
            self._inbox.post(event)

    def adopt(self, memory: PreviousRun, tunnels: Mapping[str, Tunnel]) -> None:
        """Go on from what an earlier daemon has left; before the first configuration, which names these
        tunnels.
        """
        self._memory = memory
        self.draining = memory.ends_by is not None
        self._lanes = memory.lanes
        self._carriers = recalled(list(tunnels.values()), memory.carries)

    def resume(self, incidents: frozenset[str]) -> None:
        """Names of the incidents that an earlier run left open; before the first configuration."""
        self._calls = resumed(incidents, self._clock())

    def remember(self, known: Mapping[str, Known]) -> None:
        """What earlier runs have learned about the far sides, by tunnel; before the first configuration."""
        self._known = known

    def drain(self, until: float | None = None) -> None:
        """Take nothing new from now on; each tunnel ends when its flows are over, at the latest `until`
        (see `drained_by`).
        """
        self.draining = True
        for name in self._tunnels:
            self._inbox.post(
                ev.Asked(name, reason=Reason.SHUTDOWN, until=self.drained_by() if until is None else until)
            )

    def drained_by(self) -> float:
        """The moment (monotonic seconds) at which a drain that begins now is over at the latest."""
        return self._clock() + self._scope.timeout

    # --- what comes out
    # --------------------------------------------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot:
        """All tunnels now."""
        pairs = {name: (tunnel, self._states[name]) for name, tunnel in self._tunnels.items()}
        return Snapshot(MappingProxyType(pairs), self._clock(), self.draining, self._uplink)

    @property
    def conditions(self) -> Mapping[str, Condition]:
        """What is wrong and needs nobody to explain it, by name."""
        return seen(self._noticed, self._found(), self._clock()).shown

    def _found(self) -> dict[str, Condition]:
        found = self._out.conditions | self._faults.conditions
        if not self._uplink.alive:
            text = f"the uplink is dead: {self._uplink.text}; nothing is restarted until it is back"
            found["uplink"] = Condition(text, "critical", "ip route; ip neighbour")
        return found | of_tunnels(self.snapshot)

    def tunnel(self, name: str) -> Tunnel:
        """Its settings. KeyError: there is no such tunnel."""
        return self._tunnels[name]

    def lane(self, tunnel: str, slot: int) -> int | None:
        """The lane of one of the tunnel's slots."""
        return lane_of(self._lanes[tunnel], slot) if tunnel in self._lanes else None

    def overdue(self) -> float:
        """Seconds by which the loop is late for its nearest deadline: a measure of whether it still turns."""
        return 0.0 if self._due is None else max(0.0, self._clock() - self._due)

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
            events = await self._inbox.wait(
                None if self._due is None else max(0.0, self._due - self._clock())
            )
            changed = self._take(events)
            if changed:
                if self._out.busy:
                    await asyncio.sleep(
                        0
                    )  # a turn of the loop: the client starts before the rest follows from it
                    self._take(self._inbox.take())
                self._publish_plan()
                await asyncio.sleep(0)  # and the kernel begins to follow before everybody else is told
            self._follow(changed, planned=changed)

    def advance(self, events: Iterable[ev.Event]) -> float | None:
        """One turn: take the events and the deadlines that are reached, publish what changed. Returns the
        next deadline.
        """
        return self._follow(self._take(events))

    def _take(self, events: Iterable[ev.Event]) -> bool:
        now = self._clock()
        changed = [self._apply(event, now) for event in (*self._rests.over(now), *events)]
        for name, state in [(name, state) for name, state in self._states.items() if name not in self._rests]:
            if state.other is not None:
                changed += self._apply_due(name, state.other, now, state.other.session.number)
            changed += self._apply_due(name, state, now)
            if state.planned is not None and state.planned <= now:
                changed.append(
                    self._apply(
                        ev.ReconnectDue(name, free=not self.draining and not self._hindered(name)), now
                    )
                )
        return any(changed)

    def _apply_due(self, name: str, side: TunnelState, now: float, session: int | None = None) -> list[bool]:
        """What the reached deadlines of one session, or of the tunnel as such, change."""
        changed = []
        if side.deadline is not None and side.deadline <= now:
            changed.append(self._apply(ev.Tick(name, side.session.number), now))
        if side.drain is not None and side.drain.until <= now:
            changed.append(self._apply(ev.Asked(name, session, side.drain.reason), now))
        return changed

    def _hindered(self, name: str) -> bool:
        """A tunnel that could carry the same destinations is not to be relied on at this moment."""
        return any(
            unsettled(self._states[rival]) for rival in self._rivals.get(name, ()) if rival in self._states
        )

    def _follow(self, changed: bool, *, planned: bool = False) -> float | None:
        """Publish; the moment (monotonic seconds) at which something is due next."""
        now = self._clock()
        parting, self._parting = self._parting, []
        if changed or self._out.due(now) or (self._plan_due is not None and self._plan_due <= now):
            if not planned:
                self._publish_plan()
            self._publish_rest()
        elif self._alerts_due is not None and self._alerts_due <= now:
            self._publish_alerts()
        for (
            tunnel,
            order,
        ) in parting:  # after the plan: traffic moves to another tunnel first, if there is one
            self._out.order(tunnel, order)
        sides = [
            side for name, state in self._states.items() if name not in self._rests for side in state.sides
        ]
        drains = (side.drain.until for side in sides if side.drain is not None)
        ours = (self._alerts_due, self._plan_due, self._out.again, *self._rests.moments)
        due = [*(side.deadline for side in sides), *(side.planned for side in sides), *drains, *ours]
        self._due = min((moment for moment in due if moment is not None), default=None)
        return self._due

    def _apply(self, event: ev.Event, now: float) -> bool:
        """Take the event; True when something changed that outputs depend on."""
        match event:
            case ev.Noticed():
                return True
            case ev.UplinkDoubted():
                self._uplink = replace(self._uplink, doubted=event.doubted)
                return False
            case ev.UplinkChanged():
                self._uplink = Uplink(event.alive, now, event.text)
                for name in self._tunnels if event.alive else ():
                    self._apply(ev.UplinkBack(name), now)
                return True
            case _:
                return self._apply_to_tunnel(event, now)

    def _apply_to_tunnel(self, event: ev.Event, now: float) -> bool:
        """One step of one tunnel. One that fails leaves the tunnel as it was."""
        tunnel, before = self._tunnels.get(event.tunnel), self._states.get(event.tunnel)
        if tunnel is None or before is None or self._too_late(event):
            return False
        outcome, changed = self._faults.ask(
            _part(tunnel.name), (None, False), self._step, tunnel, before, event, now
        )
        if outcome is None:
            self._states[tunnel.name] = before
            self._rests.rest(event, now)
            return False
        for action in outcome.actions:
            self._perform(tunnel, action)
        if (
            tunnel.name in self._retiring
            and outcome.state.phase is Phase.STOPPED
            and outcome.state.other is None
        ):
            self._forget(tunnel.name)
            return True
        return changed

    def _step(
        self, tunnel: Tunnel, before: TunnelState, event: ev.Event, now: float
    ) -> tuple[SessionOutcome, bool]:
        """What comes of the event, and whether outputs depend on it."""
        turn, uplink = self._turn(tunnel.name, concerned(before, event), now), self._uplink
        moment = StepContext(
            tunnel,
            self._limits(tunnel),
            now,
            self._chance(),
            turn,
            uplink.alive,
            uplink.doubted,
            self._zone(),
        )
        outcome = step(moment, before, event)
        self._states[tunnel.name] = outcome.state
        return outcome, self._tell(tunnel, before, outcome, now)

    def _tell(self, tunnel: Tunnel, before: TunnelState, outcome: SessionOutcome, now: float) -> bool:
        """Let everybody know what the step has changed; True when there is anything."""
        sides = sides_of(before, outcome)
        for was, side in sides:
            self._take_turn(tunnel.name, was, side)
            if moved(was, side):
                leg = dead_leg(tunnel, side, self._uplink)
                self._unrecorded.append((transition(tunnel.name, was, side, now, leg), self.snapshot))
        changed = len(sides) > 1 or any(
            moved(was, side) or public(was) != public(side) for was, side in sides
        )
        if changed:
            self._unkept.add(tunnel.name)
        return changed

    def _limits(self, tunnel: Tunnel) -> KindLimits:
        kind = self._kinds[tunnel.kind]
        return KindLimits(
            kind.start_timeout,
            kind.stop_timeout,
            bool(kind.renew),
            kind.renews_login,
            kind.pairs(tunnel),
            kind.endless,
        )

    def _turn(self, name: str, state: TunnelState, now: float) -> float:
        """Before this moment no client of the tunnel starts, out of regard for those of others."""
        gateway, others = (
            self._gateways.get(name),
            (self._states[other] for other in self._partners.get(name, ()) if other in self._states),
        )
        return max(0.0 if gateway is None else self._turns.turn(gateway, state.turn), login_turn(others, now))

    def _take_turn(self, name: str, before: TunnelState, after: TunnelState) -> None:
        """Note what other tunnels at the gateway, and with the account, must know."""
        if name in self._gateways:
            self._turns.note(self._gateways[name], before, after)
        if after.refusals != before.refusals or (after.phase is Phase.UP and before.phase is not Phase.UP):
            self._share_refusals(name, after)

    def _share_refusals(self, name: str, state: TunnelState) -> None:
        """An account is refused, or accepted, for all tunnels that use it."""
        for other in self._partners.get(name, ()):
            if other in self._states:
                theirs = self._states[other]
                self._states[other] = replace(theirs, refusals=state.refusals, login_after=state.login_after)
                self._unkept.add(other)
                if state.phase is Phase.UP and theirs.phase is Phase.FAILED and theirs.reason is Reason.AUTH:
                    self._inbox.post(ev.InputsChanged(other))

    def _too_late(self, event: ev.Event) -> bool:
        """A tunnel that is being removed cannot be wished back; only a configuration that names it again
        brings it back.
        """
        return (
            event.tunnel in self._retiring
            and isinstance(event, ev.Asked)
            and event.reason not in (Reason.STOPPED, Reason.SHUTDOWN)
        )

    def _perform(self, tunnel: Tunnel, action: ev.Action) -> None:
        if isinstance(action, ev.Terminate):
            self._parting.append((tunnel, action))
        elif (failed := self._out.order(tunnel, action)) is not None:
            self._inbox.post(failed)

    def _forget(self, name: str) -> None:
        self._retiring.discard(name)
        del self._tunnels[name], self._states[name], self._lanes[name]
        self._unkept.add(name)
        self._rests.forget(name)
        self._faults.forget(_part(name))

    def _publish_plan(self) -> None:
        self._out.publish("plan", self._plan_anew)
        self._out.plan(self.plan)

    def _plan_anew(self) -> None:
        snapshot, before = self.snapshot, self._carriers
        self._carriers, due = choose(before, snapshot)
        self._plan_due = min(
            (moment for moment in (due, next_refusal(snapshot)) if moment is not None), default=None
        )
        carried_by = proxies(self._tunnels, self._kinds)
        scope = self._scope
        self.plan = desired(
            scope.staff, self._lanes, carried_by, snapshot, self._carriers, scope.segments, scope.accounting
        )
        self._unkept |= contested(before, self._carriers)

    def _publish_rest(self) -> None:
        unrecorded, self._unrecorded = self._unrecorded, []
        for moved_on, before in unrecorded:  # not before the plan: recorders write files
            self._out.record(moved_on, before)
        if self._unkept and self._out.keep(self.records(self._unkept)):
            self._unkept = set()
        self._out.probe(probe_jobs(self._tunnels, self._states, self._lanes, self._kinds))
        self._out.count(flow_jobs(self._states, self._lanes, self._scope.idle))
        self._publish_alerts()
        snapshot = self.snapshot
        for future, condition in list(self._waiters.items()):
            if not future.done() and self._faults.ask("waiter", False, condition, snapshot):
                future.set_result(None)

    def records(self, names: Iterable[str]) -> dict[str, TunnelRecord | None]:
        """What a later daemon goes on from; None: there is no such tunnel."""
        return recorded(names, self._states, self._lanes, self._carriers)

    def _publish_alerts(self) -> None:
        self._alerts_due = None
        self._out.publish("alerts", self._judge)
        self._out.alert(self._alerts)

    def _judge(self) -> None:
        sight = seen(self._noticed, self._found(), self._clock())
        self._noticed = sight.since
        self._calls, self._alerts, due = called(
            self._scope.facilitator, self._calls, self.snapshot, sight.shown, self._ties
        )
        self._alerts_due = min(
            (moment for moment in (due, sight.due, self._faults.due) if moment is not None), default=None
        )


def _part(tunnel: str) -> str:
    """What a tunnel is called among the parts of the daemon that can fail."""
    return f"tunnel:{tunnel}"
