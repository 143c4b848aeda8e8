"""Runs the probes of every running session and posts what came of them to the inbox; it judges nothing.

Rounds tell whether traffic passes. Once they do, the largest packet that passes is looked for, beside them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from supervisor.core.events import Event, PathMtu, Probed
from supervisor.probes.pmtu import path_mtu
from supervisor.probes.targets import Path, probe
from tunnels.settings import Probe

_SPREAD = 0.1       # of the interval


class Job(Protocol):
    """What to probe: one running session (the engine's `ProbeJob`)."""

    @property
    def tunnel(self) -> str:
        """Name of the tunnel."""
    @property
    def session(self) -> int:
        """Number of the session."""
    @property
    def probe(self) -> Probe:
        """Targets, interval and timeout."""
    @property
    def device(self) -> str | None:
        """The tunnel's device; None: a proxy."""
    @property
    def mark(self) -> int:
        """The lane."""


class ProbeLoop:
    """One task per job: a round asks all targets at once, the first answer ends it.

    Rounds start `interval` apart while they are answered, and `timeout` apart after a miss, so that three misses in a row take
    at most interval + 3 * timeout from the moment a path dies (11 s with the defaults). The interval is shortened by chance, by up to a
    tenth, so that many tunnels do not probe in step.
    """

    def __init__(self, post: Callable[[Event], None], lane_ready: Callable[[], Awaitable[None]], chance: Callable[[], float]) -> None:
        """`lane_ready` returns when the kernel carries out the latest plan; `chance` gives a number in [0, 1)."""
        self._post = post
        self._lane_ready = lane_ready
        self._chance = chance
        self._tasks: dict[str, tuple[Job, asyncio.Task[None]]] = {}

    def set(self, jobs: Mapping[str, Job]) -> None:
        """Probe exactly these; a job that is the same as before goes on undisturbed."""
        for name, (job, task) in list(self._tasks.items()):
            if jobs.get(name) != job:
                task.cancel()
                del self._tasks[name]
        for name, job in jobs.items():
            if name not in self._tasks:
                self._tasks[name] = (job, asyncio.create_task(self._run(job), name=f"probe {name}"))

    async def close(self) -> None:
        """End all probes."""
        tasks = [task for _, task in self._tasks.values()]
        self.set({})
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, job: Job) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(job.probe.timeout):
                await self._lane_ready()
        answered = asyncio.Event()
        async with asyncio.TaskGroup() as both:
            both.create_task(self._rounds(job, answered))
            if job.device is not None:      # a proxy carries streams, whose packets never enter the path
                both.create_task(self._path_mtu(job, answered))

    async def _path_mtu(self, job: Job, answered: asyncio.Event) -> None:
        await answered.wait()
        found = await path_mtu(job.probe.targets, Path(job.device, job.mark), job.probe.timeout)
        self._post(PathMtu(job.tunnel, job.session, found))

    async def _rounds(self, job: Job, answered: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            rtt = await first_answer(job.probe, Path(job.device, job.mark))
            self._post(Probed(job.tunnel, job.session, rtt))
            if rtt is not None:
                answered.set()
            spread = 1.0 - _SPREAD * (0.2 + 0.8 * self._chance())
            pause = job.probe.interval * spread if rtt is not None else min(job.probe.timeout, job.probe.interval)
            await asyncio.sleep(max(0.0, started + pause - loop.time()))


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
