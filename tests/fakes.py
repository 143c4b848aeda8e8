"""Small stand-ins for the world, with the engine's own Protocols: they hold state and time, and patch
nothing.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from supervisor.core.alerting.verdict import Alert, Verdict
from supervisor.core.events import ClientSaid, Event, Exited, FlowsCounted, Noticed, Probed, Spawned
from supervisor.core.faults import Faults, Tell
from supervisor.core.network.compose import Scope
from supervisor.core.network.flow_counting import FlowJob
from supervisor.core.network.plan import NetworkPlan
from supervisor.core.session.jobs import ProbeJob
from supervisor.core.session.record import PreviousRun, TunnelRecord
from supervisor.core.snapshot import Snapshot, Transition
from supervisor.core.state import Known, Phase, Proof, Second
from supervisor.engine import Engine
from supervisor.inbox import Inbox
from supervisor.outputs import Outputs, Recorder
from tunnels.base import Carrier, Connected, Failed, Kind, Launch, Reason, SignOfLife, device_name, slot_name
from tunnels.settings import Tunnel


class FakeDialogue:
    """Understands nothing."""

    def receive(self, source, line):
        return ()

    def answer(self, text):
        return ()


KIND = Kind(
    "test",
    Tunnel,
    Carrier.DEVICE,
    lambda t: (),
    lambda t, p, i: Launch(("true",)),
    lambda t, i: FakeDialogue(),
    (),
)


@dataclass
class Habits:
    """How the clients of a simulated world behave. Times in seconds."""

    connects_in: Callable[[], float | None] = lambda: 0.5  # None: never
    lives: Callable[[], float] = lambda: float("inf")  # from connected to dropped
    says: Callable[[], Failed | None] = lambda: None  # instead of connecting
    obeys_sigterm: Callable[[], bool] = lambda: True
    path_alive: Callable[[float], bool] = lambda now: True
    proof: Callable[[float], Proof | None] = lambda now: (
        None
    )  # what shows that a tunnel works whose path is not
    silent: Callable[[float], tuple[str, ...]] = lambda now: ()  # targets, while the path is alive
    sign: Callable[[float], SignOfLife | None] = lambda now: None  # of the protocol, when asked
    flows: Callable[[str, float], int] = lambda tunnel, now: 0  # that are left in a tunnel that drains
    second: Second = Second.REPLACES  # what the remote gateway makes of a second session


class World:
    """Virtual time: things happen in order, and no instant may see more than a bounded number of them."""

    SPIN_BUDGET = 10_000

    def __init__(
        self,
        tunnels: Mapping[str, Tunnel],
        habits: Habits,
        seed: int = 1,
        kind: Kind = KIND,
        *,
        now: float = 0.0,
        recorder: Recorder | None = None,
        known: Mapping[str, Known] | None = None,
        outputs: Callable[[Outputs], Outputs] = lambda all: all,
        tell: Tell | None = None,
    ) -> None:
        """`outputs` may put others in the place of those that the world has; `tell` hears of faults of our
        own, in the place of `told`.
        """
        self.now = now
        self.habits = habits
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        chance = random.Random(seed)
        self.runner, self.prober = FakeRunner(self), FakeProber(self)
        self.network, self.alerter, self.recorder = FakeNetwork(), FakeAlerter(), FakeRecorder()
        self.flows, self.keeper = FakeFlows(self), FakeKeeper()
        self._outputs = outputs(
            Outputs(
                self.runner,
                self.network,
                self.prober,
                self.flows,
                (self.alerter,),
                (recorder or self.recorder,),
                (),
                (self.keeper,),
            )
        )
        self.told: list[tuple[str, str]] = []  # faults of our own: the part and the error
        keep: Tell = lambda part, _, error: self.told.append((part, repr(error)))  # noqa: E731
        self.faults = Faults(lambda: self.now, tell or keep, lambda: self.post(Noticed("")))
        self._make = lambda: Engine(
            self.inbox,
            self._outputs,
            {"test": kind},
            clock=lambda: self.now,
            chance=chance.random,
            faults=self.faults,
        )
        self._known, self._tunnels = known or {}, tunnels
        self._begin(PreviousRun())

    def _begin(self, memory: PreviousRun, restart: Container[str] = ()) -> None:
        self.inbox = Inbox()
        self.engine = self._make()
        self.engine.remember(self._known)
        self.engine.adopt(memory, self._tunnels)
        self.engine.configure(Scope("sim", ()), self._tunnels, held=(), restart=restart)
        self._drain_inbox()

    def crash(
        self, lost: Container[str] = (), restart: Container[str] = (), ends_by: float | None = None
    ) -> None:
        """The daemon dies and another one goes on. `lost`: slots whose clients die unseen; `restart`:
        tunnels with other settings now.

        `ends_by`: of a drain that had begun.
        """
        for place in [place for place in self.runner.alive if place in lost]:
            del self.runner.alive[place]
        living = frozenset((place.removesuffix("~"), session) for place, session in self.runner.alive.items())
        self.prober.jobs = {}
        self._begin(PreviousRun(dict(self.keeper.records), living, ends_by=ends_by), restart)

    def post(self, event: Event) -> None:
        """Deliver an event now."""
        self.inbox.post(event)

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something in virtual time."""
        if seconds != float("inf"):
            self._count += 1
            heapq.heappush(self._heap, (self.now + seconds, self._count, act))

    def run(self, until: float) -> None:
        """Let virtual time pass."""
        spins, due = 0, self._drain_inbox()
        while True:
            upcoming = min(
                self._heap[0][0] if self._heap else float("inf"), due if due is not None else float("inf")
            )
            if upcoming > until:
                self.now = until
                return
            spins = spins + 1 if upcoming <= self.now else 0
            assert spins < self.SPIN_BUDGET, f"something spins at {self.now}"
            self.now = max(self.now, upcoming)
            self._happens()
            due = self._drain_inbox()

    def _drain_inbox(self) -> float | None:
        """Turns of the engine, stage by stage as in production: between two stages happens what is due."""
        self._turn()
        while not self.inbox.empty:
            self._turn()
        return self.engine.due

    def _turn(self) -> None:
        for _ in self.engine.turn(self.inbox.take()):
            self._happens()

    def _happens(self) -> None:
        while self._heap and self._heap[0][0] <= self.now:
            heapq.heappop(self._heap)[2]()

    def phase(self, name: str = "acme") -> Phase:
        """The tunnel's phase now."""
        return self.engine.snapshot.tunnels[name][1].phase


@dataclass
class FakeRunner:
    """Clients that live in virtual time. At most one per slot of a tunnel, or the test fails."""

    world: World
    alive: dict[str, int] = field(default_factory=dict)  # session by slot
    spawned: list[tuple[float, str, int]] = field(default_factory=list)
    renewed: list[tuple[float, str, int]] = field(default_factory=list)
    asked: list[tuple[float, str, int]] = field(default_factory=list)  # for a sign of life
    dead: set[tuple[str, int]] = field(
        default_factory=set
    )  # sessions that another one has taken the place of

    def spawn(
        self, tunnel: Tunnel, session: int, resume: bool = False, remote: int = 0, slot: int = 0
    ) -> None:
        place = slot_name(tunnel.name, slot)
        assert place not in self.alive, f"{place} would run twice"
        self.alive[place] = session
        self.spawned.append((self.world.now, tunnel.name, session))
        self.world.post(
            Spawned(tunnel.name, session, 1000 + session, f"id-{session}", device_name(tunnel, slot))
        )
        refusal, connects_in = self.world.habits.says(), self.world.habits.connects_in()
        if self.world.habits.second is Second.REFUSED and len(self.sessions(tunnel.name)) > 1:
            refusal = Failed(Reason.FAR_END_FULL, "there is a session already")
        if refusal is not None:
            self._later(
                0.2, tunnel.name, session, lambda: self.world.post(ClientSaid(tunnel.name, session, refusal))
            )
        elif connects_in is not None:
            self._later(connects_in, tunnel.name, session, lambda: self._connected(tunnel.name, session))

    def renew(self, tunnel: str, session: int) -> None:
        self.renewed.append((self.world.now, tunnel, session))

    def ask_sign_of_life(self, tunnel: str, session: int) -> None:
        self.asked.append((self.world.now, tunnel, session))
        if (said := self.world.habits.sign(self.world.now)) is not None:
            self._later(0.001, tunnel, session, lambda: self.world.post(ClientSaid(tunnel, session, said)))

    def terminate(self, tunnel: str, session: int, leave: bool = False) -> None:
        if self.world.habits.obeys_sigterm():
            self._later(0.05, tunnel, session, lambda: self.exit(tunnel, session, Exited(tunnel, session, 0)))

    def kill(self, tunnel: str, session: int) -> None:
        self._later(
            0.01, tunnel, session, lambda: self.exit(tunnel, session, Exited(tunnel, session, None, 9))
        )

    @property
    def busy(self) -> bool:
        """What is ordered here is done."""
        return False

    def sessions(self, name: str) -> list[int]:
        """Of the tunnel's clients that live."""
        return [
            self.alive[place] for place in (slot_name(name, slot) for slot in (0, 1)) if place in self.alive
        ]

    def _connected(self, name: str, session: int) -> None:
        same = self.world.habits.second in (Second.REPLACES, Second.REFUSED)
        if self.world.habits.second in (Second.REPLACES, Second.ENDS):
            self.dead |= {(name, other) for other in self.sessions(name) if other != session}
        self.world.post(
            ClientSaid(name, session, Connected("10.78.0.2" if same else f"10.78.0.{2 + session % 200}"))
        )
        self._later(
            self.world.habits.lives(),
            name,
            session,
            lambda: self.exit(name, session, Exited(name, session, 1)),
        )

    def _later(self, seconds: float, name: str, session: int, act: Callable[[], None]) -> None:
        self.world.later(seconds, lambda: act() if self._place(name, session) is not None else None)

    def _place(self, name: str, session: int) -> str | None:
        """The slot on which the session lives."""
        return next(
            (
                place
                for place in (slot_name(name, slot) for slot in (0, 1))
                if self.alive.get(place) == session
            ),
            None,
        )

    def exit(self, name: str, session: int, event: Exited) -> None:
        place = self._place(name, session)
        assert place is not None
        del self.alive[place]
        self.world.post(event)


@dataclass
class FakeProber:
    """Answers after 10 ms while the path is alive, gives up after the timeout otherwise."""

    world: World
    jobs: dict[str, ProbeJob] = field(default_factory=dict)
    asking: str = ""  # the tunnel whose path is being asked about

    def set(self, jobs: Mapping[str, ProbeJob]) -> None:
        for name, job in jobs.items():
            if self.jobs.get(name) != job:
                self.world.later(0.0, lambda job=job: self._round(job))
        self.jobs = dict(jobs)

    def _round(self, job: ProbeJob) -> None:
        if job not in self.jobs.values():
            return
        self.asking = job.tunnel
        alive = (
            self.world.habits.path_alive(self.world.now)
            and (job.tunnel, job.session) not in self.world.runner.dead
        )
        self.world.later(0.01 if alive else job.probe.timeout, lambda: self._ended(job, alive))

    def _ended(self, job: ProbeJob, alive: bool) -> None:
        if job in self.jobs.values():
            proof = None if alive else self.world.habits.proof(self.world.now)
            silent = self.world.habits.silent(self.world.now) if alive else job.probe.targets
            self.world.post(Probed(job.tunnel, job.session, 0.01 if alive else None, proof, silent))
            self.world.later(job.probe.interval - 0.01 if alive else 0.0, lambda: self._round(job))


@dataclass
class FakeFlows:
    """Counts every second what the test says is left in a tunnel."""

    world: World
    jobs: dict[int, FlowJob] = field(default_factory=dict)

    def set(self, jobs: Mapping[int, FlowJob]) -> None:
        for lane in jobs.keys() - self.jobs.keys():
            self.world.later(0.0, lambda lane=lane: self._count(lane))
        self.jobs = dict(jobs)

    def _count(self, lane: int) -> None:
        if lane in self.jobs:
            name, session = self.jobs[lane].tunnel, self.jobs[lane].session
            self.world.post(
                FlowsCounted(name, session, lane=lane, left=self.world.habits.flows(name, self.world.now))
            )
            self.world.later(1.0, lambda: self._count(lane))


@dataclass
class FakeKeeper:
    """Remembers what it is told, as JSON: what cannot be written down is lost."""

    FORMAT = TypeAdapter(TunnelRecord)
    written: dict[str, bytes] = field(default_factory=dict)

    @property
    def records(self) -> dict[str, TunnelRecord]:
        """As a later daemon reads them."""
        return {name: self.FORMAT.validate_json(document) for name, document in self.written.items()}

    def keep(self, records: Mapping[str, TunnelRecord | None]) -> None:
        for name, record in records.items():
            if record is None:
                self.written.pop(name, None)
            else:
                self.written[name] = self.FORMAT.dump_json(record)


@dataclass
class FakeNetwork:
    """Remembers the plans."""

    plans: list[NetworkPlan] = field(default_factory=list)
    conditions: dict[str, str] = field(default_factory=dict)
    closed_since: float | None = None

    def set(self, plan: NetworkPlan) -> None:
        open_lanes = {lane.tunnel for lane in plan.lanes if lane.up}
        owners = {lane.number: lane for lane in plan.lanes}
        for carry in plan.carries:
            lane = owners[carry.lane]
            assert lane.up or lane.tunnel not in open_lanes, f"{lane.tunnel} has another lane that is open"
        self.plans.append(plan)


@dataclass
class FakeAlerter:
    """Keeps incidents as the verdicts say, like the real one, and counts them."""

    open: set[str] = field(default_factory=set)
    opened: list[str] = field(default_factory=list)
    resolved: list[str] = field(default_factory=list)
    alerts: Mapping[str, Alert] = field(default_factory=dict)

    def set(self, alerts: Mapping[str, Alert]) -> None:
        self.alerts = alerts
        for name in self.open - set(alerts):
            self.open.discard(name)
            self.resolved.append(name)
        for name, alert in alerts.items():
            if alert.verdict is Verdict.FIRING and name not in self.open:
                self.open.add(name)
                self.opened.append(name)
            elif alert.verdict is Verdict.CLEAR and name in self.open:
                self.open.discard(name)
                self.resolved.append(name)


@dataclass
class FakeRecorder:
    """Remembers the transitions."""

    transitions: list[Transition] = field(default_factory=list)

    def record(self, transition: Transition, snapshot: Snapshot) -> None:
        self.transitions.append(transition)
