"""Members, their hosts and a lock service in virtual time: what no real cluster lets us try a thousand times.

The service is strict: a lease ends exactly its TTL after the last renewal that it has carried out, to the
microsecond, and whoever asks next gets the lock. (etcd and Consul are later, never earlier.) A client's
packets leave its host while the kernel's fence is open, and that is all that counts: two open fences at one
moment are two sessions of one account.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from supervisor.core.fleet.lease import LeasePhase, Wished, call_budget
from supervisor.core.fleet.member_lease import LockCall, LockReply, LockRequest, MemberLease

ACCOUNT = "acme"
END_SECONDS = 0.3  # that a client takes to log off
STEP_SECONDS = 0.05  # between two looks of a member that is not frozen


class VirtualTime:
    """Virtual time and what is due."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Do it so many seconds from now."""
        heapq.heappush(self._queue, (self.now + seconds, next(self._number), act))

    def run(self, until: float) -> Iterator[float]:
        """All that is due, one after the other; yields the time after each."""
        while self._queue and self._queue[0][0] <= until:
            self.now, _, act = heapq.heappop(self._queue)
            act()
            yield self.now
        self.now = until


class StrictService:
    """Leases and one lock, as strict as it is allowed to be."""

    def __init__(self, world: VirtualTime, ttl: float) -> None:
        self._world, self._ttl = world, ttl
        self._ends: dict[str, float] = {}
        self._numbers = itertools.count(1)
        self._holder: tuple[str, int] | None = None
        self.away = False

    def carry_out(self, request: LockRequest) -> LockReply:
        """The reply, and what changes at this very moment."""
        now = self._world.now
        self._ends = {lease: end for lease, end in self._ends.items() if now < end}
        if self._holder is not None and self._holder[0] not in self._ends:
            self._holder = None
        match request.call:
            case LockCall.OPEN:
                lease = f"lease{next(self._numbers)}"
                self._ends[lease] = now + self._ttl
                return LockReply(lease=lease, ttl=self._ttl)
            case LockCall.RENEW:
                if request.lease not in self._ends:
                    return LockReply(granted=False)
                self._ends[request.lease] = now + self._ttl
                return LockReply()
            case LockCall.ACQUIRE:
                return self._acquired(request.lease)
            case LockCall.GIVE_BACK:
                if self._holder is not None and self._holder[0] == request.lease:
                    self._holder = None
                return LockReply()

    def _acquired(self, lease: str) -> LockReply:
        if lease not in self._ends:
            return LockReply(granted=False)
        if self._holder is None:
            self._holder = (lease, next(self._numbers))
        held = self._holder[0] == lease
        return LockReply(granted=held, token=self._holder[1], holder=self._holder[0])

    def change_leader(self) -> None:
        """A new leader begins the TTL of every lease anew (etcd)."""
        now = self._world.now
        self._ends = {lease: now + self._ttl for lease, end in self._ends.items() if now < end}


@dataclass
class SimulatedMember:
    """One host: its daemon, which may be frozen, its client, and the fence in its kernel."""

    world: VirtualTime
    service: StrictService
    chance: random.Random
    rate: float  # of its monotonic clock, about 1
    ttl: float
    fenced: bool = True  # False: a planted bug; the kernel holds no lease
    offset: float = 0.0
    cut: bool = False  # its packets to the service are lost
    frozen: bool = False  # its daemon does nothing
    wants: bool = True
    state: MemberLease = field(init=False)
    client: str = ""  # "", "running", "ending"
    fence: float = float("-inf")  # by its own clock: until when packets of the client leave
    logins: int = 0
    _backlog: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = MemberLease(self.ttl)
        self.world.after(self.chance.random() * STEP_SECONDS, self._look)

    @property
    def clock(self) -> float:
        """Its monotonic clock."""
        return self.world.now * self.rate + self.offset

    @property
    def sends(self) -> bool:
        """The client's packets leave the host at this moment."""
        return bool(self.client) and (not self.fenced or self.clock < self.fence)

    def thaw(self) -> None:
        """The daemon goes on, first of all with what has come meanwhile."""
        self.frozen = False
        backlog, self._backlog = self._backlog, []
        for act in backlog:
            act()

    def clock_jumped(self) -> None:
        """The daemon has noticed that its clocks differ by more than before."""
        if not self.frozen:
            self.state = self.state.doubted("the clock jumped", self.clock)
            self._follow()

    def _awake(self, act: Callable[[], None]) -> None:
        if self.frozen:
            self._backlog.append(act)
        else:
            act()

    def _look(self) -> None:
        self.world.after(STEP_SECONDS, self._look)
        if not self.frozen:
            self._follow()

    def _follow(self) -> None:
        """What the daemon does at each turn."""
        wishes = {ACCOUNT: Wished(self.wants, bool(self.client))}
        self.state = self.state.wished(wishes, self.clock).passed(self.clock)
        lease = self.state.accounts.get(ACCOUNT)
        if lease is not None:
            self.fence = lease.until
        if lease is None or lease.phase is LeasePhase.FREE:
            self.fence = float("-inf")
        if self.client == "running" and (lease is None or lease.must_end(self.clock)):
            self.client = "ending"
            self.world.after(END_SECONDS, self._ended)
        elif not self.client and lease is not None and self.wants and lease.may_start(self.clock):
            self.client = "running"
            self.logins += 1
        for request in tuple(self.state.requests(self.clock)):
            self.state = self.state.sent(request, self.clock)
            self._send(request)

    def _ended(self) -> None:
        self.client = ""
        self._awake(self._follow)

    def _send(self, request: LockRequest) -> None:
        sent, answered = self.clock, [False]

        def arrives() -> None:
            if self.cut or self.service.away:
                return
            reply = self.service.carry_out(request)
            self.world.after(self._delay(), lambda: self._awake(lambda: comes_back(reply)))

        def comes_back(reply: LockReply) -> None:
            if not self.cut and not answered[0]:
                answered[0] = True
                self.state = self.state.answered(request, reply, sent, self.clock)
                self._follow()

        def too_late() -> None:
            if not answered[0]:
                answered[0] = True
                self.state = self.state.failed(request, "no answer in time", self.clock)
                self._follow()

        self.world.after(self._delay(), arrives)
        self.world.after(call_budget(self.ttl), lambda: self._awake(too_late))

    def _delay(self) -> float:
        """Seconds on the way: mostly few, now and then many."""
        return self.chance.choice((0.001, 0.003, 0.01, 0.2, 1.5)) * self.chance.random()


FAULTS = ("cut", "frozen", "both", "away", "leader", "jump", "wants", "client dies", "suspended")


def simulate(seed: int, *, ttl: float = 5.0, members: int = 3, fenced: bool = True) -> tuple[float, int, int]:
    """A random story of two minutes. Seconds with more than one sender, logins, and faults."""
    chance, world = random.Random(seed), VirtualTime()
    service = StrictService(world, ttl)
    hosts = [
        SimulatedMember(
            world, service, chance, 1 + chance.uniform(-1e-3, 1e-3), ttl, fenced, chance.random() * 1e4
        )
        for _ in range(members)
    ]
    moment, faults = 5.0, 0
    while moment < 100.0:
        world.after(moment, _fault(chance, world, service, chance.choice(hosts)))
        moment += chance.expovariate(1 / 4)
        faults += 1
    twice, before, was = 0.0, 0.0, False
    for now in world.run(120.0):
        twice += (now - before) * was
        before, was = now, sum(host.sends for host in hosts) > 1
    return twice, sum(host.logins for host in hosts), faults


def _fault(
    chance: random.Random, world: VirtualTime, service: StrictService, host: SimulatedMember
) -> Callable[[], None]:
    kind, lasts = chance.choice(FAULTS), chance.choice((0.5, 2.0, 4.0, 8.0, 15.0)) * chance.random()

    def frozen() -> None:
        host.frozen = True
        world.after(lasts, host.thaw)

    def cut() -> None:
        host.cut = True
        world.after(lasts, lambda: setattr(host, "cut", False))

    def both() -> None:
        frozen()
        cut()

    def away() -> None:
        service.away = True
        world.after(lasts, lambda: setattr(service, "away", False))

    def wants() -> None:
        host.wants = False
        world.after(lasts, lambda: setattr(host, "wants", True))

    def dies() -> None:
        host.client = ""

    def suspended() -> None:
        """The host stands still for less than the margin, and so does its monotonic clock."""
        short = chance.random()
        host.frozen, host.offset = True, host.offset - short * host.rate
        world.after(short, resumed)

    def resumed() -> None:
        host.frozen = False
        host.clock_jumped()
        host.thaw()

    acts = (cut, frozen, both, away, service.change_leader, host.clock_jumped, wants, dies, suspended)
    return dict(zip(FAULTS, acts, strict=True))[kind]
