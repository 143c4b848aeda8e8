"""How a daemon ends: it takes nothing new, waits for the flows that are under way, logs every client off
and leaves the kernel clean.

    first signal: drain -> every flow is over, or drain.timeout -> every client has ended
    second signal, or `drain --now`: the flows are cut, the clients get some seconds; a third one kills them

Until it is over the order stands in `runtime_dir` (`app.stores.state_store`), and a daemon that comes after a
crash goes on with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterable

import structlog

from supervisor.app.wiring import Parts, summary
from supervisor.config import Config
from supervisor.core.events import Asked
from supervisor.core.humanize import lasting
from supervisor.core.state import Phase, Snapshot, Want
from supervisor.core.views.drain_text import counted, drains, silence, waits_for
from tunnels.base import Reason

LOG_OFF_WITHIN = 3.0  # seconds for all clients to end when the flows are cut
KILL_WITHIN = 1.0  # seconds for them to be gone after they were killed
TELL = 10.0  # seconds between two signs of life to the service manager
TELL_LOG = 600.0  # seconds between two lines in the log
ALLOWANCE = 60.0  # seconds that the service manager shall wait for the next sign


class Orders:
    """What signals and `facilitator drain` ask for. Installed before anything else, so that none is lost."""

    def __init__(self) -> None:
        self.end = asyncio.Event()  # when nothing is under way any more
        self.now = asyncio.Event()  # soon, whatever is under way
        self.kill = asyncio.Event()  # at once, whoever has not logged off
        self.reload = asyncio.Event()
        self.hand_over = (
            asyncio.Event()
        )  # instead of ending: the next daemon is waited for, and shall go on with everything
        self.until: float | None = (
            None  # the end that an earlier daemon had begun: monotonic seconds by which it is over
        )
        self.signalled = False  # a signal asked for the end
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._more)
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)
        signal.pthread_sigmask(
            signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        )  # see app/upgrade.py

    def drain(self, now: bool) -> None:
        """As the first signal; `now`: as the second."""
        self.end.set()
        if now:
            self.now.set()

    def resume(self, until: float) -> None:
        """An earlier daemon has got this order, and has not lived to carry it out."""
        self.until = until
        self.end.set()

    def _more(self) -> None:
        """Each signal asks for more than the one before."""
        self.signalled = True
        next((order for order in (self.end, self.now) if not order.is_set()), self.kill).set()


class Ending:
    """The end of one run. `engine` is the task that runs it: without it nothing would ever be over."""

    def __init__(self, parts: Parts, config: Config, orders: Orders, engine: asyncio.Task[None]) -> None:
        self._parts, self._config, self._orders, self._engine = parts, config, orders, engine
        self._log = structlog.get_logger()

    async def drain(self) -> None:
        """Until every tunnel has ended because nothing goes through it any more, or until another order."""
        parts, orders = self._parts, self._orders
        until = parts.engine.drained_by() if orders.until is None else orders.until
        parts.memory.end_by(until)
        parts.engine.drain(until)
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGHUP, self._log.warning, "reload refused, nothing changed: draining"
        )
        parts.notifier.stopping()
        parts.notifier.extend_timeout(ALLOWANCE)
        within = max(0.0, until - time.monotonic())
        if orders.until is None:
            self._log.info("stopping", within=lasting(self._config.drain.timeout))
            parts.alerter.change(
                f"{parts.identity.facilitator}: stops on request",
                {"tunnels": ", ".join(parts.engine.snapshot.tunnels)},
            )
        else:
            self._log.info(
                "going on with the drain that an earlier daemon has begun",
                within=lasting(within),
                to_serve_again=HOW_TO_SERVE,
            )
        over = asyncio.create_task(parts.engine.wait_for(all_stopped))
        others = [asyncio.create_task(order.wait()) for order in (orders.now, orders.hand_over)]
        telling = asyncio.create_task(self._tell())
        within += LOG_OFF_WITHIN  # sessions that were replaced before may have had longer
        try:
            await asyncio.wait(
                {over, *others, self._engine}, timeout=within, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            await _cancelled((over, *others, telling))
        if self._engine.done():
            await self._engine

    async def log_off(self) -> None:
        """End what still runs: log off, and kill whoever takes too long or when a third order comes."""
        parts = self._parts
        if left := waits_for(parts.engine.snapshot):
            self._log.warning("ending although flows are under way", left=left)
        parts.memory.end_by(time.monotonic())  # nothing is waited for any more, also after a crash
        parts.notifier.extend_timeout(ALLOWANCE)
        for name in parts.engine.snapshot.tunnels:
            parts.inbox.post(Asked(name, reason=Reason.SHUTDOWN))
        ended = asyncio.create_task(parts.engine.wait_for(all_stopped))
        kill = asyncio.create_task(self._orders.kill.wait())
        await asyncio.wait({ended, kill}, timeout=LOG_OFF_WITHIN, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            self._kill_all()
            await asyncio.wait({ended}, timeout=KILL_WITHIN)
        await _cancelled((ended, kill))

    def _kill_all(self) -> None:
        for name, (_, state) in self._parts.engine.snapshot.tunnels.items():
            for each in state.sessions:
                self._parts.runner.kill(name, each.session.number)

    async def _tell(self) -> None:
        """Say what is waited for: on the log at first and now and then, to the service manager whenever it
        changes.
        """
        engine, notifier = self._parts.engine, self._parts.notifier
        await engine.wait_for(counted)
        logged = float("-inf")
        while drains(engine.snapshot):
            told = waits_for(engine.snapshot)
            if time.monotonic() - logged >= TELL_LOG:
                logged = time.monotonic()
                self._log.info(
                    "draining", left=told, longest_idle=silence(engine.snapshot), to_end_now=HOW_TO_END
                )
            notifier.status(summary(engine.snapshot))
            notifier.extend_timeout(ALLOWANCE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TELL):
                    await engine.wait_for(lambda snapshot, told=told: waits_for(snapshot) != told)  # type: ignore[misc]


HOW_TO_END = "SIGTERM or Ctrl-C once more, or: facilitator drain --now"
HOW_TO_SERVE = "systemctl restart; without systemd: facilitator drain --now, and start it"


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
