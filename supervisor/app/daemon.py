"""`facilitator run`: builds everything, serves until it is told to end, and takes everything down again in the right order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

import structlog

from supervisor import __version__
from supervisor.app.facade import Facade
from supervisor.app.files import Files, errors_of, load
from supervisor.app.held import Held
from supervisor.app.place import lock, make_directory
from supervisor.clients.journal import Journal
from supervisor.clients.processes import become_subreaper, raise_file_limit, reset_sigchld
from supervisor.clients.runner import Runner
from supervisor.clients.sweep import sweep
from supervisor.clients.watch import InputWatcher
from supervisor.config.difference import difference
from supervisor.config.model import Config
from supervisor.config.report import ConfigErrors
from supervisor.control.api import Api, Servers, tls_context
from supervisor.control.notify import Notifier
from supervisor.core.events import Asked
from supervisor.core.exits import CannotStart, Exit
from supervisor.core.state import Phase, Snapshot, Transition, up
from supervisor.core.view import Identity
from supervisor.engine import Engine, Inbox, Outputs, Recorder, Scope
from supervisor.kernel.network import KernelNetwork
from supervisor.kernel.traffic import LinkBytes
from supervisor.probes.prober import ProbeLoop
from supervisor.reports import lag
from supervisor.reports.log import TransitionLog, configure
from supervisor.reports.metrics import Metrics
from supervisor.reports.pagerduty import Hooks, PagerDuty
from supervisor.reports.redact import Secrets
from supervisor.reports.routing import Paging
from supervisor.reports.series import Sources
from tunnels import KINDS
from tunnels.base import AnyKind, Reason

STOP_WITHIN = 20.0      # seconds for all clients to end; each has its own, shorter deadline and is killed at it
KILL_WITHIN = 3.0       # seconds after a second signal
STALLED = 10.0          # seconds that the engine may be late


def run(path: Path, kinds: Mapping[str, AnyKind] = KINDS) -> int:
    """Run the daemon with this configuration to its end; the exit code. Errors at the start are printed."""
    try:
        return asyncio.run(_main(path, kinds))
    except (ConfigErrors, CannotStart) as problem:
        lines = errors_of(problem) if isinstance(problem, ConfigErrors) else [f"facilitator: {problem}"]
        print("\n".join(lines), file=sys.stderr)
        return Exit.CONFIG if isinstance(problem, ConfigErrors) else problem.code


async def _main(path: Path, kinds: Mapping[str, AnyKind]) -> int:
    os.umask(0o077)
    reset_sigchld()
    become_subreaper()
    raise_file_limit()
    orders = Orders()
    notifier = Notifier()
    config = load(path, kinds)
    make_directory(config.facilitator.runtime_dir, "facilitator.runtime_dir", shared=True)
    make_directory(config.facilitator.state_dir, "facilitator.state_dir")
    locked = lock(config.facilitator.runtime_dir)
    secrets = Secrets()
    log = configure(sys.stdout.fileno(), secrets)
    daemon = Daemon(path, kinds, config, secrets, notifier, lambda: log.dropped)
    try:
        await daemon.start()
        await daemon.serve(orders)
        await daemon.stop(orders)
    finally:
        await daemon.close()
        log.close()
        os.close(locked)
    return Exit.OK


class Orders:
    """What signals ask for. Installed before anything else, so that none is lost."""

    def __init__(self) -> None:
        self.end = asyncio.Event()
        self.now = asyncio.Event()
        self.reload = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)

    def _end(self) -> None:
        (self.now if self.end.is_set() else self.end).set()


class Everybody:
    """The recorders, as one."""

    def __init__(self, *recorders: Recorder) -> None:
        self._recorders = recorders

    def record(self, transition: Transition, snapshot: Snapshot) -> None:
        """Tell each of them."""
        for recorder in self._recorders:
            recorder.record(transition, snapshot)


class SystemdStatus:
    """Keeps the line that `systemctl status` shows."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier

    def record(self, transition: Transition, snapshot: Snapshot) -> None:
        """Say how many tunnels are up."""
        self._notifier.status(summary(snapshot))


def summary(snapshot: Snapshot) -> str:
    """One line about all tunnels."""
    return f"{sum(up(state) for _, state in snapshot.tunnels.values())} of {len(snapshot.tunnels)} tunnels up"


class Daemon:
    """Everything that one run of the daemon consists of."""

    def __init__(
        self, path: Path, kinds: Mapping[str, AnyKind], config: Config, secrets: Secrets, notifier: Notifier, log_dropped: Callable[[], int]
    ) -> None:
        self._path, self._kinds, self._config, self._notifier = path, kinds, config, notifier
        self._log = structlog.get_logger()
        self._files = Files(path.resolve().parent, secrets.add)
        self._held = Held(config.facilitator.state_dir)
        self._inbox = Inbox()
        wall_offset = time.time() - time.monotonic()
        self._identity = Identity(self._name(config), __version__, os.getpid(), time.time(), wall_offset)
        post = self._inbox.post
        self._runner = Runner(
            kinds, config.facilitator.runtime_dir, self._files.read, post, on_line=self._client_said, lane_of=lambda name: self._engine.lane(name)
        )
        self._network = KernelNetwork(post, self._note, lambda what: self._metrics.kernel_repaired(what))
        self._prober = ProbeLoop(post)
        self._watcher = InputWatcher(post)
        hooks = Hooks(self._files.secret_text, lambda name: self._runner.tail(name, 20), lambda a, r: self._metrics.pagerduty_event(a, r))
        self._alerter = PagerDuty(config.facilitator.state_dir, self._paging(config), hooks, secrets)
        self._metrics = Metrics(__version__, wall_offset, Sources(
            link_bytes=LinkBytes(), usage=self._runner.usage, routes=self._network.routes, pagerduty=lambda: self._alerter.status,
            log_dropped=log_dropped,
        ))
        recorder = Everybody(TransitionLog(), self._metrics, SystemdStatus(notifier))
        outputs = Outputs(self._runner, self._network, self._prober, self._alerter, recorder)
        self._engine = Engine(self._inbox, outputs, kinds, clock=time.monotonic, chance=random.SystemRandom().random)
        self._servers = Servers()
        self._tasks: list[asyncio.Task[None]] = []

    # --- the beginning -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Up to READY: the kernel closed, leftovers ended, sockets open, engine running. CannotStart."""
        config = self._config
        self._log.info("starting", facilitator=self._identity.facilitator, version=__version__, tunnels=len(config.tunnels))
        for warning in config.warnings:
            self._log.warning("configuration", text=str(warning))
        await self._network.start(self._engine.preview(self._scope(config), config.tunnels))
        for name, pid in await sweep(Journal(config.facilitator.runtime_dir)):
            self._log.warning("ended what an earlier daemon left running", tunnel=name, pid=pid)
        self._runner.start()
        self._watcher.start()
        self._alerter.start()
        await self._listen(config)
        self._take_over(config, ())
        self._tasks = [
            asyncio.create_task(self._engine.run(), name="engine"),
            asyncio.create_task(lag.watch(self._metrics.loop_lag), name="loop lag"),
            asyncio.create_task(self._feed_watchdog(), name="watchdog"),
        ]
        self._notifier.ready(summary(self._engine.snapshot))
        self._log.info("ready")

    async def _listen(self, config: Config) -> None:
        api = Api(Facade(
            self._identity, self._inbox, self._engine, self._runner, self._network, self._metrics, self._held, self._stalled, self._reload
        ))
        path, listen, tls = config.facilitator.runtime_dir / "control.sock", config.http.listen, config.http.tls
        try:
            await self._servers.listen_unix(api.control(), path)
            context = None if tls is None else tls_context(tls.certificate, tls.key, tls.client_ca)
            await self._servers.listen_tcp(api.public(), listen.host, listen.port, context)
        except OSError as error:
            raise CannotStart(Exit.FAILED, f"cannot listen on {listen} or {path}: {error}; see http in the configuration") from None

    def _take_over(self, config: Config, restart: Container[str]) -> None:
        self._config = config
        self._engine.configure(self._scope(config), config.tunnels, held=self._held.names, restart=restart)
        self._watcher.set({name: self._files.paths(self._kinds[t.kind].inputs(t)) for name, t in config.tunnels.items()})
        self._alerter.route(self._paging(config))

    # --- while it runs -------------------------------------------------------------------------------------------------------

    async def serve(self, orders: Orders) -> None:
        """Until the end is asked for. An engine that fails ends the daemon: the kernel stays closed, and the next start begins anew."""
        engine = self._tasks[0]
        end = asyncio.create_task(orders.end.wait())
        while not end.done():
            hup = asyncio.create_task(orders.reload.wait())
            await asyncio.wait({engine, end, hup}, return_when=asyncio.FIRST_COMPLETED)
            if engine.done():
                await engine
            if hup.done():
                orders.reload.clear()
                await self._reload()
            hup.cancel()

    async def _reload(self) -> dict[str, Any]:
        """Take over the file as it is now; a wrong one changes nothing."""
        self._notifier.reloading()
        try:
            return self._reloaded()
        finally:
            self._notifier.ready(summary(self._engine.snapshot))

    def _reloaded(self) -> dict[str, Any]:
        try:
            config = load(self._path, self._kinds)
        except (ConfigErrors, CannotStart) as problem:
            self._metrics.reloaded(False)
            errors = errors_of(problem)
            self._log.error("reload refused, nothing changed", errors=errors)
            return {"done": [], "errors": errors}
        change = difference(self._config, config)
        self._take_over(config, change.restart)
        self._metrics.reloaded(True)
        done = list(change.lines())
        self._log.info("reloaded", done=done)
        return {"done": done, "errors": []}

    async def _feed_watchdog(self) -> None:
        interval = self._notifier.watchdog_interval
        while interval is not None:
            if self._stalled() is None:
                self._notifier.watchdog()
            await asyncio.sleep(interval)

    def _stalled(self) -> str | None:
        late = self._engine.overdue()
        return None if late < STALLED else f"the engine is {late:.0f} s late"

    # --- the end -------------------------------------------------------------------------------------------------------------

    async def stop(self, orders: Orders) -> None:
        """Log every client off; a second signal kills them. Then the kernel is left as `on_exit` says."""
        self._log.info("stopping")
        self._notifier.stopping()
        self._engine.draining = True
        for name in self._engine.snapshot.tunnels:
            self._inbox.post(Asked(name, reason=Reason.SHUTDOWN))
        ended = asyncio.create_task(self._engine.wait_for(_all_stopped))
        now = asyncio.create_task(orders.now.wait())
        await asyncio.wait({ended, now}, timeout=STOP_WITHIN, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            self._kill_all()
            await asyncio.wait({ended}, timeout=KILL_WITHIN)
        for task in (ended, now):
            task.cancel()
        self._prober.set({})
        await self._network.close(keep=self._config.on_exit == "keep")
        self._log.info("stopped", left=[name for name, (_, s) in self._engine.snapshot.tunnels.items() if s.running])

    def _kill_all(self) -> None:
        for name, (_, state) in self._engine.snapshot.tunnels.items():
            if state.running:
                self._runner.kill(name, state.session.number)

    async def close(self) -> None:
        """Let go of everything; also after a start that failed half-way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._servers.close()
        await self._prober.close()
        await self._watcher.close()
        await self._runner.close()
        await self._network.close(keep=True)
        self._alerter.close()
        with contextlib.suppress(OSError):
            (self._config.facilitator.runtime_dir / "control.sock").unlink(missing_ok=True)

    # --- small things --------------------------------------------------------------------------------------------------------

    def _name(self, config: Config) -> str:
        return config.facilitator.name or socket.gethostname()

    def _scope(self, config: Config) -> Scope:
        return Scope(self._identity.facilitator, config.staff.networks)

    def _paging(self, config: Config) -> Paging:
        own = {name: t.alert.routing_key for name, t in config.tunnels.items() if t.alert.routing_key is not None}
        pagerduty = config.alerts.pagerduty
        if pagerduty is None:
            return Paging(self._identity.facilitator, tunnels=own)
        return Paging(self._identity.facilitator, str(pagerduty.url), pagerduty.routing_key, own)

    def _client_said(self, tunnel: str, text: str) -> None:
        self._log.info("client", tunnel=tunnel, text=text)

    def _note(self, text: str, details: Mapping[str, Any]) -> None:
        self._log.warning(text, **details)


def _all_stopped(snapshot: Snapshot) -> bool:
    return all(state.phase is Phase.STOPPED for _, state in snapshot.tunnels.values())
