"""Graceful shutdown: nothing new is taken, flows under way are waited for, clients log off, and the kernel is
left clean.

    first signal: drain -> every flow is over, or drain.timeout -> every client has ended
    second signal, or `drain --now`: the flows are cut, the clients get some seconds; a third one kills them

A drain is written to `runtime_dir` (`supervisor.app.stores.state_store`), so that a daemon that comes after a
crash goes on with it. Where another daemon follows on this host (`control.supervisor`: a restart, a new
version of the job), nothing is drained: the next daemon takes over what runs. Where it is not known, the
destinations stay closed until there is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterable

import structlog

from supervisor.app.parts import Parts
from supervisor.app.status_line import summary
from supervisor.app.stores.state_store import forget
from supervisor.config import Config
from supervisor.control.stop_reason import StopReason
from supervisor.control.supervisor import stop_reason
from supervisor.core.events import Asked
from supervisor.core.humanize import duration
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Phase, Want
from supervisor.core.views.drain_text import all_counted, drains, silence, waits_for
from tunnels.base import Reason

LOG_OFF_SECONDS = 3.0  # for all clients to end when the flows are cut
HOOKS_SECONDS = 3.0  # for the hooks to be told of the end
KILL_SECONDS = 1.0  # for them to be gone after SIGKILL
STATUS_SECONDS = 10.0  # between two signs of life to the service manager, at most
LOG_SECONDS = 600.0  # between two lines in the log
EXTEND_TIMEOUT_SECONDS = 60.0  # that the service manager should wait for the next sign of life
STOP_REASON_RECHECK_SECONDS = 5.0  # during a drain the operator may change from stop to restart or reboot
HOW_TO_END = "SIGTERM or Ctrl-C once more, or: facilitator drain --now"
HOW_TO_SERVE = "systemctl restart; without systemd: facilitator drain --now, and start it"


class ShutdownRequests:
    """What signals and `facilitator drain` have asked for. Made first of all, so that none is lost."""

    def __init__(self) -> None:
        self.graceful = asyncio.Event()  # end when nothing is under way any more
        self.immediate = asyncio.Event()  # end soon, whatever is under way
        self.kill = asyncio.Event()  # SIGKILL clients that have not logged off
        self.reload = asyncio.Event()
        self.hand_over = asyncio.Event()  # end at once, and leave everything to the next daemon
        self.deadline: float | None = None  # of a drain that an earlier daemon had begun: monotonic seconds
        self.signalled = False  # a signal asked for the end
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._escalate)
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)
        # blocked during an upgrade, see supervisor.app.upgrade
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))

    def drain(self, now: bool) -> None:
        """As the first signal; `now`: as the second."""
        self.graceful.set()
        if now:
            self.immediate.set()

    def resume(self, deadline: float) -> None:
        """Go on with the drain of an earlier daemon, which ends at this moment (monotonic seconds)."""
        self.deadline = deadline
        self.graceful.set()

    def _escalate(self) -> None:
        """Each signal asks for more than the one before."""
        self.signalled = True
        next(
            (request for request in (self.graceful, self.immediate) if not request.is_set()), self.kill
        ).set()


class Shutdown:
    """The end of one run. `engine` is the task that runs the engine: without it no tunnel would ever end."""

    def __init__(
        self, parts: Parts, config: Config, requests: ShutdownRequests, engine: asyncio.Task[None]
    ) -> None:
        self._parts, self._config, self._requests, self._engine = parts, config, requests, engine
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Hand over at once if another daemon follows; else drain, log off and clean up."""
        if self._requests.hand_over.is_set():
            self._hand_over()
            return
        verdict = await stop_reason()
        self._log.info("asked to end", reason=verdict.reason.value, text=verdict.text)
        self._parts.stores.last_end.write(verdict, time.time())
        if verdict.reason.hands_over:
            self._hand_over()
            return
        watching = asyncio.create_task(self._watch_stop_reason())
        await self.stop(keep_closed=verdict.reason is StopReason.UNKNOWN)
        watching.cancel()

    async def stop(self, *, keep_closed: bool) -> None:
        """Drain, log off, and leave the kernel as `on_exit` says, or closed in any case (`keep_closed`). A
        request to hand over ends the drain instead.
        """
        parts, requests = self._parts, self._requests
        if requests.signalled:
            parts.reports.auditing.signalled("stop", "SIGTERM or SIGINT")
        await self.drain()
        if requests.hand_over.is_set() and not requests.immediate.is_set():
            self._hand_over()
            return
        await self.log_off()
        await parts.data_plane.names.end()
        await parts.reports.hooks.finish(HOOKS_SECONDS)
        parts.data_plane.prober.set({})
        await parts.data_plane.network.close(keep=keep_closed or self._config.on_exit == "keep")
        try:
            forget(self._config.facilitator.runtime_dir)
        except OSError as error:
            self._log.error(
                "the next daemon would end at once: the order to end cannot be removed; facilitator cleanup",
                error=str(error),
            )
        left = [name for name, (_, state) in parts.engine.snapshot.tunnels.items() if state.running]
        self._log.info("stopped", left=left)

    async def drain(self) -> None:
        """Wait until every tunnel has ended because its flows are over, until drain.timeout, or until another
        request.
        """
        parts, requests = self._parts, self._requests
        deadline = parts.engine.drained_by() if requests.deadline is None else requests.deadline
        self._begin_drain(deadline)
        over = asyncio.create_task(parts.engine.wait_for(all_stopped))
        others = [asyncio.create_task(each.wait()) for each in (requests.immediate, requests.hand_over)]
        reporting = asyncio.create_task(self._report_progress())
        # sessions that were replaced before may have a later deadline
        within = max(0.0, deadline - time.monotonic()) + LOG_OFF_SECONDS
        try:
            await asyncio.wait(
                {over, *others, self._engine}, timeout=within, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            await _cancelled((over, *others, reporting))
        if self._engine.done():
            await self._engine

    def _begin_drain(self, deadline: float) -> None:
        parts = self._parts
        parts.stores.records.end_by(deadline)
        parts.engine.drain(deadline)
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGHUP, self._log.warning, "reload refused, nothing changed: draining"
        )
        parts.notifier.stopping()
        parts.notifier.extend_timeout(EXTEND_TIMEOUT_SECONDS)
        if self._requests.deadline is None:
            self._log.info("stopping", within=duration(self._config.drain.timeout))
            parts.reports.pagers.change(
                f"{parts.identity.facilitator}: stops on request",
                {"tunnels": ", ".join(parts.engine.snapshot.tunnels)},
            )
        else:
            self._log.info(
                "continuing the drain that an earlier daemon began",
                within=duration(max(0.0, deadline - time.monotonic())),
                to_serve_again=HOW_TO_SERVE,
            )

    async def log_off(self) -> None:
        """End the clients that still run: they log off, or are killed after LOG_OFF_SECONDS or at a third
        request.
        """
        parts = self._parts
        if left := waits_for(parts.engine.snapshot):
            self._log.warning("stopping although flows are active", left=left)
        parts.stores.records.end_by(time.monotonic())  # a daemon after a crash should not drain any more
        parts.notifier.extend_timeout(EXTEND_TIMEOUT_SECONDS)
        for name in parts.engine.snapshot.tunnels:
            parts.inbox.post(Asked(name, reason=Reason.SHUTDOWN))
        ended = asyncio.create_task(parts.engine.wait_for(all_stopped))
        kill = asyncio.create_task(self._requests.kill.wait())
        await asyncio.wait({ended, kill}, timeout=LOG_OFF_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            self._kill_all()
            await asyncio.wait({ended}, timeout=KILL_SECONDS)
        await _cancelled((ended, kill))

    def _kill_all(self) -> None:
        for name, (_, state) in self._parts.engine.snapshot.tunnels.items():
            for each in state.sessions:
                self._parts.data_plane.runner.kill(name, each.session.number)

    async def _report_progress(self) -> None:
        """Say what the drain waits for: in the log now and then, to the service manager at each change."""
        engine, notifier = self._parts.engine, self._parts.notifier
        await engine.wait_for(all_counted)
        logged = float("-inf")
        while drains(engine.snapshot):
            left = waits_for(engine.snapshot)
            if time.monotonic() - logged >= LOG_SECONDS:
                logged = time.monotonic()
                self._log.info(
                    "draining", left=left, longest_idle=silence(engine.snapshot), to_end_now=HOW_TO_END
                )
            notifier.status(summary(engine.snapshot))
            notifier.extend_timeout(EXTEND_TIMEOUT_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STATUS_SECONDS):
                    await engine.wait_for(lambda snapshot, left=left: waits_for(snapshot) != left)  # type: ignore[misc]

    async def _watch_stop_reason(self) -> None:
        """A host that shuts down, and a supervisor that restarts the daemon, wait for its end: then flows are
        waited for no longer.
        """
        requests = self._requests
        while not (requests.immediate.is_set() or requests.hand_over.is_set()):
            reason = (await stop_reason()).reason
            if reason is StopReason.SHUTDOWN:
                self._log.info("the host shuts down: flows are not waited for")
                requests.immediate.set()
            elif reason.hands_over:
                requests.hand_over.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_REASON_RECHECK_SECONDS):
                    await requests.immediate.wait()

    def _hand_over(self) -> None:
        """The next daemon adopts everything as it is, but for a drain: it should serve."""
        self._log.info("handing over to the next one: clients and routes stay as they are")
        self._parts.stores.records.end_by(None)
        self._parts.notifier.stopping()


def all_stopped(snapshot: Snapshot) -> bool:
    """No client runs and none is wanted."""
    return all(
        state.phase is Phase.STOPPED and state.want is Want.DOWN and state.standby is None
        for _, state in snapshot.tunnels.values()
    )


async def _cancelled(tasks: Iterable[asyncio.Task[object]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
