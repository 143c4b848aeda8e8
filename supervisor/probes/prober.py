"""Runs the probes of every running session and posts what came of them to the inbox; it judges nothing.

Rounds tell whether traffic passes; after a miss they also tell whether the tunnel itself lives. Once traffic
passes, the largest packet that passes is looked for, beside them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager

from supervisor.core.events import Event, PathMtu, Probed
from supervisor.core.session.jobs import ProbeJob
from supervisor.core.state import Proof
from supervisor.probes.inner_probe import answers_inside
from supervisor.probes.interface_activity import InterfaceActivity, LinkBytes, Meter
from supervisor.probes.pmtu import path_mtu
from supervisor.probes.targets import Path, probe
from tunnels.settings import Probe

_SPREAD = 0.1  # of the interval
_SPARED = 2.0  # intervals without a round at most, while packets come out of the tunnel by themselves


Contained = Callable[[str], AbstractContextManager[None, bool | None]]


class ProbeLoop:
    """One task per job: a round asks all targets at once, the first answer ends it.

    Rounds start `interval` apart while they are answered, and `timeout` apart after a miss, so that three
    misses in a row take at most interval + 3 * timeout from the moment a path dies (11 s with the defaults).
    The interval is shortened by chance, by up to a tenth, so that many tunnels do not probe in step. It
    counts from the last moment at which the path was seen to live: while packets come out of the device it is
    stretched, and when they stop though packets go in the round comes at once.
    """

    def __init__(
        self,
        post: Callable[[Event], None],
        lane_ready: Callable[[], Awaitable[None]],
        chance: Callable[[], float],
        link_bytes: LinkBytes = lambda device: None,
        contained: Contained = lambda part: contextlib.nullcontext(),
    ) -> None:
        """`lane_ready` returns when the kernel carries out the latest plan; `chance` gives a number in [0,
        1).

        `contained` takes faults of our own: a session whose probes have one is probed anew.
        """
        self._contained = contained
        self._post = post
        self._pulse = InterfaceActivity(link_bytes)
        self._lane_ready = lane_ready
        self._chance = chance
        self._tasks: dict[str, tuple[ProbeJob, asyncio.Task[None]]] = {}

    def set(self, jobs: Mapping[str, ProbeJob]) -> None:
        """Probe exactly these; a job that is the same as before goes on undisturbed."""
        for name, (job, task) in list(self._tasks.items()):
            if jobs.get(name) != job:
                task.cancel()
                del self._tasks[name]
                self._pulse.forget(job.device or "")
        for name, job in jobs.items():
            if name not in self._tasks:
                self._tasks[name] = (job, asyncio.create_task(self._run(job), name=f"probe {name}"))

    async def close(self) -> None:
        """End all probes."""
        tasks = [task for _, task in self._tasks.values()]
        self.set({})
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._pulse.close()

    async def _run(self, job: ProbeJob) -> None:
        while True:
            with self._contained("prober"):  # without its probes a dead session would look well for ever
                await self._probe(job)
            await asyncio.sleep(job.probe.interval)

    async def _probe(self, job: ProbeJob) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(job.probe.timeout):
                await self._lane_ready()
        answered = asyncio.Event()
        async with asyncio.TaskGroup() as both:
            both.create_task(self._rounds(job, answered))
            if job.device is not None:  # a proxy carries streams, whose packets never enter the path
                both.create_task(self._path_mtu(job, answered))

    async def _path_mtu(self, job: ProbeJob, answered: asyncio.Event) -> None:
        await answered.wait()
        found = await path_mtu(job.probe.targets, Path(job.device, job.mark), job.probe.timeout)
        self._post(PathMtu(job.tunnel, job.session, found))

    async def _rounds(self, job: ProbeJob, answered: asyncio.Event) -> None:
        loop, hurry = asyncio.get_running_loop(), min(job.probe.timeout, job.probe.interval)
        meter = None if job.device is None else self._pulse.watch(job.device)
        missed = True  # of a session that has yet to prove itself more wants to be known
        while True:
            started = loop.time()
            result = await self._round(job, ask_inside=missed)
            self._post(result)
            missed = result.rtt is None
            if not missed:
                answered.set()
                await self._spared(job, meter, started)
            await asyncio.sleep(max(0.0, started + hurry - loop.time()))

    async def _round(self, job: ProbeJob, ask_inside: bool) -> Probed:
        """Ask all targets, and where something is wrong the tunnel itself beside them: its answer counts
        if theirs do not come.
        """
        path, before = Path(job.device, job.mark), self._received(job)
        inside = asyncio.create_task(_inside(job, path, ask_inside))
        try:
            rtt = await first_answer(job.probe, path)
            if rtt is not None:
                return Probed(job.tunnel, job.session, rtt)
            if await inside:
                return Probed(job.tunnel, job.session, None, Proof.ANSWERED)
        finally:
            inside.cancel()
        after = self._received(job)
        came_out = before is not None and after is not None and after > before
        return Probed(job.tunnel, job.session, None, Proof.RECEIVED if came_out else None)

    def _received(self, job: ProbeJob) -> int | None:
        return None if job.device is None else self._pulse.received(job.device)

    async def _spared(self, job: ProbeJob, meter: Meter | None, started: float) -> None:
        """Wait until the next round after one that was answered."""
        loop, spread = asyncio.get_running_loop(), 1.0 - _SPREAD * (0.2 + 0.8 * self._chance())
        interval = job.probe.interval * spread
        if meter is not None:
            meter.stalled.clear()  # the answer came out of it
        while (left := _due(started, interval, meter) - loop.time()) > 0.0:
            if meter is None:
                await asyncio.sleep(left)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await meter.stalled.wait()
                    return


def _due(started: float, interval: float, meter: Meter | None) -> float:
    """When the next round is due after one that was answered and began at `started`, if nothing happens
    until then.
    """
    lived = started if meter is None else max(started, meter.received_at)
    return min(lived + interval, started + _SPARED * interval)


async def _inside(job: ProbeJob, path: Path, wanted: bool) -> bool:
    return wanted and await answers_inside(job.probe.targets, path, job.inside, job.probe.timeout)


async def first_answer(settings: Probe, path: Path) -> float | None:
    """One round: seconds until the first of the targets answered; None when none did within the timeout."""
    tasks = [asyncio.create_task(probe(target, path, settings.timeout)) for target in settings.targets]
    try:
        for finished in asyncio.as_completed(tasks):
            rtt = await finished
            if rtt is not None:
                return rtt
        return None
    finally:
        for task in tasks:
            task.cancel()
