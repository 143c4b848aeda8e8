"""Runs the hooks of tunnels: the operator's programs that are told of transitions.

    transition -> `core.hooks.moved` -> one task per tunnel -> `core.hooks.next_call` -> `hook_process`

Nothing waits for a hook: a tunnel's next one begins when the last one is over, at most MAX_RUNNING run at
once, and each is killed after its timeout. What `up` and `down` said last is kept in `runtime_dir`, so that a
daemon that adopts a session does not say it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisor import disk
from supervisor.clients import hook_process
from supervisor.clients.log import Log
from supervisor.clients.reaper import ProcessTree, Reaper
from supervisor.clients.sweep import tag
from supervisor.clients.users import User, Users
from supervisor.core.conditions import Condition
from supervisor.core.events import Event, Noticed
from supervisor.core.hooks import HookCall, HookEvent, HookQueue, moved, next_call, seen
from supervisor.core.session.reason_pages import runbook_url
from supervisor.core.snapshot import Snapshot, Transition
from tunnels.settings import Tunnel

DIRECTORY = "hooks"  # in runtime_dir
MAX_RUNNING = 8  # hooks at once, of all tunnels
MAX_LAST_LINE_CHARS = 200  # in a condition
_TOLD_UP = "up"  # a file that is there while `up` is what was said last
_KILLED_SECONDS = 2.0  # for killed hooks to be gone at the end of the daemon


@dataclass(frozen=True, slots=True)
class HookSources:
    """What hooks are run with."""

    facilitator: str
    runbooks: str  # address of the page about reasons
    reaper: Reaper
    log: Callable[[str], Log]  # of a tunnel's clients
    mask: Callable[[str], str]  # secrets
    private: tuple[Path, ...] = ()  # directories that no hook may open


class HookRunner:
    """The `Recorder` and `Watcher` (`supervisor.outputs`) that runs hooks. On the event loop only."""

    def __init__(self, runtime_dir: Path, sources: HookSources, post: Callable[[Event], None]) -> None:
        self._directory, self._sources, self._post = runtime_dir, sources, post
        self._queues: dict[str, HookQueue] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._room, self._choosing = asyncio.Semaphore(MAX_RUNNING), asyncio.Lock()
        self._users = Users()
        self._failed: dict[tuple[str, HookEvent], Condition] = {}

    # --- what happens

    def set(self, snapshot: Snapshot) -> None:
        """These are the tunnels from now on; a hook that an earlier daemon could not run is run now."""
        for name in self._queues.keys() - snapshot.tunnels.keys() - self._tasks.keys():
            del self._queues[name]
        for name, (tunnel, state) in snapshot.tunnels.items():
            if tunnel.hooks.up is None and tunnel.hooks.down is None:
                continue
            failure = state.present_failure
            text = "" if failure is None else failure.text
            self._take(name, seen(self._queue(tunnel), tunnel, state, state.reason, self._sources.mask(text)))
        self._forget(snapshot.tunnels)

    def record(self, transition: Transition, snapshot: Snapshot) -> None:
        """Run what the tunnel wants to be run, soon."""
        name = transition.tunnel
        known = self._queues.get(name)
        tunnel, state = snapshot.tunnels.get(name, (None, None))
        tunnel = tunnel or (None if known is None else known.tunnel)
        if tunnel is None or not any((tunnel.hooks.up, tunnel.hooks.down, tunnel.hooks.changed)):
            self._queues.pop(name, None)
            return
        self._take(name, moved(self._queue(tunnel), tunnel, state, transition))
        self._forget(snapshot.tunnels)

    @property
    def conditions(self) -> Mapping[str, Condition]:
        """Hooks whose last run has failed."""
        return {f"hook-{event}:{tunnel}": each for (tunnel, event), each in self._failed.items()}

    async def finish(self, within: float) -> None:
        """Wait until every hook that is due has ended."""
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=within)

    async def close(self) -> None:
        """Kill the hooks that still run."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_KILLED_SECONDS)

    # --- one tunnel after the other

    def _queue(self, tunnel: Tunnel) -> HookQueue:
        known = self._queues.get(tunnel.name)
        return known or HookQueue(tunnel, (self._place(tunnel.name) / _TOLD_UP).exists())

    def _take(self, name: str, queue: HookQueue) -> None:
        self._queues[name] = queue
        if name not in self._tasks and next_call(queue)[1] is not None:
            work = self._work(name)
            self._tasks[name] = asyncio.get_running_loop().create_task(work, name=f"hooks of {name}")
        elif name not in self._tasks:
            self._queues[name], _ = next_call(queue)
            self._keep_told(name)

    async def _work(self, name: str) -> None:
        """Run what is due. Nothing is awaited between the last look and the end of the task."""
        try:
            while await self._next(name):
                self._keep_told(name)
        finally:
            del self._tasks[name]

    async def _next(self, name: str) -> bool:
        """Run one hook, if one is due when there is room for it: the latest state is told."""
        async with self._room:
            self._queues[name], call = next_call(self._queues[name])
            if call is not None:
                await self._run(call)
            return call is not None

    def _keep_told(self, name: str) -> None:
        """Write down what was said last. A hook that the end of the daemon cut off is run again."""
        file, told = self._place(name) / _TOLD_UP, self._queues[name].told
        try:
            if told and not file.exists():
                self._prepare(name)
                disk.replace(file, b"")
            elif not told:
                file.unlink(missing_ok=True)
        except OSError as error:
            self._sources.log(name).note(f"hooks: {file} cannot be written: {error.strerror}")

    def _place(self, name: str) -> Path:
        return self._directory / DIRECTORY / name

    def _prepare(self, name: str) -> Path:
        place = self._place(name)
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        return place

    def _forget(self, tunnels: Mapping[str, object]) -> None:
        left = {key: each for key, each in self._failed.items() if key[0] in tunnels}
        if left != self._failed:
            self._failed = left
            self._post(Noticed(""))

    # --- one run

    async def _run(self, call: HookCall) -> None:
        began = time.monotonic()
        try:
            code, last = await self._ended(call)
        except (OSError, LookupError) as error:
            self._judge(call, f"could not be run: {error}")
            return
        took = time.monotonic() - began
        if code == 0:
            self._judge(call, "")
            return
        how = f"ended with exit code {code}" if code is not None else f"was killed after {call.timeout:g} s"
        how = f"was ended by signal {-code}" if code is not None and code < 0 else how
        said = f"; its last line: {last}" if last else ""
        self._sources.log(call.tunnel).note(f"hook {call.event} {how} ({took:.1f} s)")
        self._judge(call, f"{how}{said}")

    async def _ended(self, call: HookCall) -> tuple[int | None, str]:
        """The exit code, and the last line."""
        user = await self._user(call.tunnel)
        carried = tag(self._directory, call.tunnel, f"hook-{uuid.uuid4().hex}")
        facts = {name: self._sources.mask(value) for name, value in call.environment.items()}
        page = runbook_url(self._sources.runbooks, call.environment["FACILITATOR_REASON"]) or ""
        environment = {
            **facts,
            "FACILITATOR_NAME": self._sources.facilitator,
            "FACILITATOR_RUNBOOK_URL": page,
        }
        pid, read = hook_process.start(call.argv, environment, carried, user, self._sources.private)
        self._sources.reaper.add(pid)
        pidfd = os.pidfd_open(pid)
        log, mask = self._sources.log(call.tunnel), self._sources.mask
        output = hook_process.HookOutput(
            read, lambda lines: log.add([f"[hook {call.event}] {mask(line)}" for line in lines])
        )
        tree = ProcessTree(pid, carried, uid=None if user is None or user.accounts is None else user.uid)
        try:
            code = await hook_process.ended(pid, pidfd, tree, self._sources.reaper, call.timeout)
        finally:
            os.close(pidfd)
            output.close()
        return code, mask(output.last)[:MAX_LAST_LINE_CHARS]

    async def _user(self, tunnel: str) -> User | None:
        """Chosen in a thread, because all processes of the host are looked at."""
        async with self._choosing:
            return await asyncio.to_thread(lambda: self._users.pick(self._prepare(tunnel)))

    def _judge(self, call: HookCall, trouble: str) -> None:
        """Note that the hook has failed, or has not."""
        key, before = (call.tunnel, call.event), dict(self._failed)
        self._failed.pop(key, None)
        if trouble:
            text = f"tunnel {call.tunnel}: the hook for `{call.event}` ({call.argv[0]}) {trouble}"
            self._failed[key] = Condition(
                text, "warning", f"facilitator logs {call.tunnel}", tunnel=call.tunnel
            )
        if self._failed != before:
            self._post(Noticed(""))


def forget(runtime_dir: Path) -> None:
    """The next daemon has told nothing to any hook."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(runtime_dir / DIRECTORY)
