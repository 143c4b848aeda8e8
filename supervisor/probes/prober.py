"""Runs the probes of every running session and posts the results as events; it decides nothing.

`ProbeJob` -> rounds -> `Probed`: whether a target answers, and after a miss whether anything else shows that
                        the tunnel works: its first hop, or packets that come back to staff
           -> path MTU -> `PathMtu`, once traffic passes
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AbstractContextManager

from supervisor.core.events import Event, PathMtu, Probed, Suspected
from supervisor.core.session.jobs import ProbeJob
from supervisor.core.session.probe_targets import traffic_proof
from supervisor.core.state import Proof
from supervisor.probes.inner_probe import answers_inside
from supervisor.probes.interface_activity import InterfaceActivity, InterfaceMeter, LinkBytes
from supervisor.probes.pmtu import path_mtu
from supervisor.probes.quick_repeats import QuickRepeats
from supervisor.probes.target_rounds import TargetRounds
from supervisor.probes.targets import ProbePath, probe
from tunnels.networks import IPAddress

_JITTER = 0.1  # part of the interval
_MAX_STRETCH = 2.0  # intervals between two rounds, while packets are received anyway

# The remote addresses from which packets came back in a lane since it was asked before, in connections that
# were opened from here; nothing the first time.
Replies = Callable[[int, float], Awaitable[Collection[IPAddress]]]

Contained = Callable[[str], AbstractContextManager[None, bool | None]]


async def no_replies(lane: int, since: float) -> Collection[IPAddress]:
    """Nobody counts them."""
    return ()


class ProbeLoop:
    """One task per job: a round probes all targets at once, the first answer ends it. The others have until
    the timeout, and the next round tells which were silent.

    Rounds start `interval` apart while they are answered, and `timeout` apart after a miss, so that three
    misses in a row take at most interval + 3 * timeout from the moment a path dies (11 s with the defaults).
    The interval is shortened by a jitter of up to a tenth, so that many tunnels do not probe in step. It
    counts from the last sign of life: received packets postpone the next round (unless a suspicion would move
    flows, see `quick_repeats`), and sent packets without received ones make it start at once.
    """

    def __init__(
        self,
        post: Callable[[Event], None],
        lane_ready: Callable[[], Awaitable[None]],
        random_unit: Callable[[], float],
        link_bytes: LinkBytes = lambda device: None,
        replies: Replies = no_replies,
        contained: Contained = lambda part: contextlib.nullcontext(),
    ) -> None:
        """`lane_ready` returns when the kernel has the latest plan; `random_unit` gives a number in [0, 1).
        `replies` is asked only while no target answers.

        `contained` catches faults of our own: the probes of that session start again.
        """
        self._contained = contained
        self._post = post
        self.missed = asyncio.Event()  # set by each round that no target answered; the reader clears it
        self._activity = InterfaceActivity(link_bytes)
        self._replies = replies
        self._lane_ready = lane_ready
        self._random_unit = random_unit
        self._tasks: dict[str, tuple[ProbeJob, asyncio.Task[None]]] = {}

    def set(self, jobs: Mapping[str, ProbeJob]) -> None:
        """Probe exactly these, by tunnel; an unchanged job goes on undisturbed."""
        for name, (job, task) in list(self._tasks.items()):
            if jobs.get(name) != job:
                task.cancel()
                del self._tasks[name]
                self._activity.forget(job.device or "")
        for name, job in jobs.items():
            if name not in self._tasks:
                self._tasks[name] = (job, asyncio.create_task(self._run(job), name=f"probe {name}"))

    async def close(self) -> None:
        """End all probes."""
        tasks = [task for _, task in self._tasks.values()]
        self.set({})
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._activity.close()

    async def _run(self, job: ProbeJob) -> None:
        while True:
            with self._contained("prober"):  # without probes a dead session would count as healthy for ever
                await self._probe(job)
            await asyncio.sleep(job.probe.interval)

    async def _probe(self, job: ProbeJob) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(job.probe.timeout):
                await self._lane_ready()
        answered = asyncio.Event()
        async with asyncio.TaskGroup() as both:
            both.create_task(self._rounds(job, answered))
            if job.device is not None:  # a proxy carries streams: their packets do not take the path
                both.create_task(self._path_mtu(job, answered))

    async def _path_mtu(self, job: ProbeJob, answered: asyncio.Event) -> None:
        await answered.wait()
        found = await path_mtu(job.probe.targets, ProbePath(job.device, job.mark), job.probe.timeout)
        self._post(PathMtu(job.tunnel, job.session, found))

    async def _rounds(self, job: ProbeJob, answered: asyncio.Event) -> None:
        loop, shortest = asyncio.get_running_loop(), min(job.probe.timeout, job.probe.interval)
        meter = None if job.device is None else self._activity.watch(job.device)
        missed = True  # a new session has yet to prove itself
        unanswered_since: float | None = None  # loop's clock: the end of the first of these rounds
        targets = TargetRounds(job.probe, ProbePath(job.device, job.mark))
        repeats = self._quick_repeats(job)
        try:
            while True:
                started = loop.time()
                if job.suspicious:
                    repeats.begin()
                rtt, proof = await self._round(job, targets, missed, unanswered_since)
                if rtt is None and repeats.answered:
                    proof = Proof.REPEATED
                self._post(Probed(job.tunnel, job.session, rtt, proof, targets.silent()))
                missed = rtt is None and proof not in (Proof.TRAFFIC, Proof.REPEATED)
                if not missed:
                    repeats.end()
                unanswered_since = None if rtt is not None else unanswered_since or loop.time()
                if missed:
                    self.missed.set()
                else:
                    answered.set()
                    await self._next_round(job, meter, started)
                await asyncio.sleep(max(0.0, started + shortest - loop.time()))
        finally:
            targets.cancel()
            repeats.end()

    def _quick_repeats(self, job: ProbeJob) -> QuickRepeats:
        path = ProbePath(job.device, job.mark)

        async def ask(seconds: float) -> bool:
            return any(
                await asyncio.gather(*(_answers(target, path, seconds) for target in job.probe.targets))
            )

        async def passes() -> bool:
            return await self._traffic(job, 0.0) is Proof.TRAFFIC

        return QuickRepeats(ask, passes, lambda: self._post(Suspected(job.tunnel, job.session)))

    async def _round(
        self, job: ProbeJob, targets: TargetRounds, probe_inside: bool, unanswered_since: float | None
    ) -> tuple[float | None, Proof | None]:
        """Probe all targets, and after a miss the tunnel itself and users' traffic too: what they show counts
        if no target answers. All of it is asked at the same time, so that no round takes longer for it.
        """
        path, before = ProbePath(job.device, job.mark), self._received(job)
        inside = asyncio.create_task(_inside(job, path, probe_inside))
        replies = asyncio.create_task(self._traffic(job, unanswered_since))
        try:
            rtt = await targets.first_answer()
            if rtt is not None:
                return rtt, None
            traffic = await replies
            if traffic is Proof.TRAFFIC:
                return None, traffic
            if await inside:
                return None, Proof.ANSWERED
        finally:
            inside.cancel()
            replies.cancel()
        after = self._received(job)
        received = before is not None and after is not None and after > before
        return None, traffic or (Proof.RECEIVED if received else None)

    async def _traffic(self, job: ProbeJob, since: float | None) -> Proof | None:
        # a proxy answers itself what it cannot carry
        if since is None or not job.probe.traffic or job.device is None:
            return None
        return traffic_proof(await self._replies(job.mark, since), job.probe.targets, job.destinations)

    def _received(self, job: ProbeJob) -> int | None:
        return None if job.device is None else self._activity.received(job.device)

    async def _next_round(self, job: ProbeJob, meter: InterfaceMeter | None, started: float) -> None:
        """Wait until the next round after one that was answered."""
        loop, jitter = asyncio.get_running_loop(), 1.0 - _JITTER * (0.2 + 0.8 * self._random_unit())
        interval = job.probe.interval * jitter
        stretch = 1.0 if job.suspicious else _MAX_STRETCH
        if meter is not None:
            meter.stalled.clear()  # the answer was received through it
        while (left := _due(started, interval, stretch, meter) - loop.time()) > 0.0:
            if meter is None:
                await asyncio.sleep(left)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await meter.stalled.wait()
                    return


def _due(started: float, interval: float, stretch: float, meter: InterfaceMeter | None) -> float:
    """When the next round is due (loop's clock) after an answered one that began at `started`, if the
    interface does not stall.
    """
    alive_at = started if meter is None else max(started, meter.received_at)
    return min(alive_at + interval, started + stretch * interval)


async def _answers(target: str, path: ProbePath, timeout: float) -> bool:
    return await probe(target, path, timeout) is not None


async def _inside(job: ProbeJob, path: ProbePath, wanted: bool) -> bool:
    return wanted and await answers_inside(job.probe.targets, path, job.inside, job.probe.timeout)
