"""The outputs as the engine uses them: each is called separately, and one that raises is a fault of that part
alone.

What holds a state (kernel, prober, pagers and so on) is set again `REPUBLISH_SECONDS` after a fault; an order
to a client is not repeated.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import ParamSpec

from supervisor.core import events as ev
from supervisor.core.alerting.verdict import Alert
from supervisor.core.conditions import Condition
from supervisor.core.faults import Faults
from supervisor.core.fleet.wishes import lock_wishes
from supervisor.core.network.compose import Scope
from supervisor.core.network.flow_counting import FlowJob
from supervisor.core.network.lanes import lane_of
from supervisor.core.network.plan import NetworkPlan
from supervisor.core.session.handover import beside, watchful
from supervisor.core.session.jobs import ProbeJob
from supervisor.core.session.record import TunnelRecord
from supervisor.core.session.tunnel_set import Members
from supervisor.core.snapshot import Snapshot, Transition
from supervisor.core.state import Phase
from supervisor.outputs import Outputs
from tunnels.base import AnyKind, Reason, slot_name
from tunnels.settings import Tunnel

REPUBLISH_SECONDS = 5.0  # after which everything is published again if an output has failed
# After a publication at least this many times as long passes as it took.
REST = 2.0
P = ParamSpec("P")


class PublicationPace:
    """When changes are published. It takes time for each tunnel, and would take all of the CPU in a storm of
    events where there are many: it rests afterwards, and takes a share only. Virtual time costs nothing.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rested = 0.0  # monotonic seconds from which on there may be another one
        self.due: float | None = None  # monotonic seconds of the next one; None: nothing has changed

    def ask(self) -> None:
        """Something has changed."""
        if self.due is None:
            self.due = max(self._clock(), self._rested)

    @contextlib.contextmanager
    def published(self) -> Iterator[None]:
        """Around each part of a publication."""
        self.due, began = None, self._clock()
        yield
        now = self._clock()
        self._rested = max(now, self._rested) + REST * (now - began)


class Delivery:
    """Calls the outputs. Nothing here raises."""

    def __init__(self, outputs: Outputs, faults: Faults, clock: Callable[[], float]) -> None:
        self._out, self._faults, self._clock = outputs, faults, clock
        self._given = NetworkPlan()  # what the kernel was given last
        self.again: float | None = None  # monotonic seconds at which everything is published again

    def due(self, now: float) -> bool:
        """Whether an output had failed and it is time to publish everything again, which the caller does."""
        due = self.again is not None and self.again <= now
        self.again = None if due else self.again
        return due

    def publish(self, part: str, act: Callable[P, object], *about: P.args, **more: P.kwargs) -> bool:
        """Call an output, or compute what it gets; False: it failed."""
        worked = self._faults.run(part, act, *about, **more)
        if not worked:
            self.again = self._clock() + REPUBLISH_SECONDS
        return worked

    @property
    def busy(self) -> bool:
        """See `ClientRunner.busy`."""
        return self._faults.ask("runner", False, lambda: self._out.runner.busy)

    @property
    def conditions(self) -> dict[str, Condition]:
        """What the outputs report to be wrong, by name."""
        of_kernel = self._faults.ask("network", {}, lambda: self._out.network.conditions)
        found = {name: Condition(text, look_further="facilitator plan") for name, text in of_kernel.items()}
        for watcher in self._out.watchers:
            found |= self._faults.ask(_named("watcher", watcher), {}, getattr, watcher, "conditions")
        return found

    def order(self, tunnel: Tunnel, action: ev.Action) -> ev.SpawnFailed | None:
        """Give an order to the runner; the event that follows if it failed."""
        runner = self._out.runner
        match action:
            case ev.Spawn():
                if not self._faults.run(
                    "runner", runner.spawn, tunnel, action.session, action.resume, action.remote, action.slot
                ):
                    text = "the client could not be started: an internal error; the log has the details"
                    return ev.SpawnFailed(tunnel.name, action.session, Reason.LOCAL, text)
            case ev.Renew():
                self._faults.run("runner", runner.renew, tunnel.name, action.session)
            case ev.AskSignOfLife():
                self._faults.run("runner", runner.ask_sign_of_life, tunnel.name, action.session)
            case ev.Terminate():
                self._faults.run("runner", runner.terminate, tunnel.name, action.session, action.leave)
            case ev.Kill():
                self._faults.run("runner", runner.kill, tunnel.name, action.session)
        return None

    def plan(self, plan: NetworkPlan) -> None:
        """Give the plan to the kernel, if it is not the one that it has."""
        if plan != self._given and self.publish("network", self._out.network.set, plan):
            self._given = plan

    def record(self, transition: Transition, snapshot: Snapshot) -> None:
        """Give a transition to the recorders, once."""
        for recorder in self._out.recorders:
            self._faults.run(_named("recorder", recorder), recorder.record, transition, snapshot)

    def keep(self, records: Mapping[str, TunnelRecord | None]) -> bool:
        """Give changed records to the keepers; False: one of them failed."""
        return all(
            [self.publish(_named("keeper", keeper), keeper.keep, records) for keeper in self._out.keepers]
        )

    def probe(self, jobs: Iterable[tuple[str, ProbeJob]]) -> None:
        """Set the jobs of the prober."""
        self.publish("prober", lambda: self._out.prober.set(dict(jobs)))

    def count(self, jobs: Iterable[tuple[int, FlowJob]]) -> None:
        """Set the jobs of the flow counter."""
        self.publish("flows", lambda: self._out.flows.set(dict(jobs)))

    def lock(self, snapshot: Snapshot) -> None:
        """Tell the keeper of locks what the tunnels want."""
        if (locks := self._out.locks) is not None:
            self.publish("locks", lambda: locks.set(lock_wishes(snapshot)))

    def name(self, scope: Scope, snapshot: Snapshot, lanes: Mapping[str, int]) -> None:
        """Tell the name service how the tunnels are."""
        if (names := self._out.names) is not None:
            self.publish("names", names.set, scope, snapshot, lanes)

    def alert(self, alerts: Mapping[str, Alert]) -> None:
        """Set the verdicts of the alerters."""
        for alerter in self._out.alerters:
            self.publish(_named("alerter", alerter), alerter.set, alerts)


def _named(role: str, part: object) -> str:
    return f"{role}:{type(part).__name__}"


def flow_jobs(members: Members, lanes: Mapping[str, int], idle: float) -> Iterator[tuple[int, FlowJob]]:
    """The jobs of the flow counter: the lanes that drain."""
    for name, (_, state) in members.items():
        if state.drain is not None:
            yield lane_of(lanes[name], state.session.slot), FlowJob(name, idle, None)
        standby = state.standby
        if standby is not None and standby.drain is not None:
            yield lane_of(lanes[name], standby.session.slot), FlowJob(name, idle, standby.session.number)


def probe_jobs(
    members: Members,
    lanes: Mapping[str, int],
    kinds: Mapping[str, AnyKind],
    movable: Callable[[str], bool] = lambda tunnel: False,
) -> Iterator[tuple[str, ProbeJob]]:
    """The jobs of the prober: the sessions that are up, by slot name. `movable`: whether a suspicion moves a
    tunnel's flows.
    """
    for name, (tunnel, state) in members.items():
        pace, moves = tunnel.probe if state.standby is None else beside(tunnel.probe, state), movable(name)
        pace = watchful(pace) if moves else pace
        for each in state.sessions if tunnel.probe.targets else ():
            if each.phase is Phase.UP:
                session, inside = each.session, kinds[tunnel.kind].inner_probe(tunnel)
                lane = lane_of(lanes[name], session.slot)
                there = tuple(each.network for each in tunnel.destinations)
                job = ProbeJob(name, session.number, pace, session.device, lane, inside, there, moves)
                yield slot_name(name, session.slot), job
