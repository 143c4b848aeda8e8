"""`facilitator run`: serves until it is told to end, and takes everything down again in the right order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
from collections.abc import Awaitable, Callable, Container, Coroutine, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from supervisor import __version__, disk
from supervisor.app.adoption import inherit
from supervisor.app.directories import lock, make_directory, refused, tidy
from supervisor.app.files import errors_of, load
from supervisor.app.preflight.isolation import say_what_is_missing
from supervisor.app.profiles import Weight, examine
from supervisor.app.shutdown import Ending, Orders
from supervisor.app.stores.state_store import forget
from supervisor.app.stores.upgrade_document import HandoverDocument, asked, received
from supervisor.app.traffic_readers import SessionMeter
from supervisor.app.upgrade import Upgrade
from supervisor.app.watchers.endpoints import EndpointWatch
from supervisor.app.watchers.idle import QuietWatch
from supervisor.app.wiring import Parts, build, first_plan, paging, scope, summary
from supervisor.clients.process_journal import Journal
from supervisor.clients.processes import (
    become_subreaper,
    forbid_core_dumps,
    open_standard_streams,
    raise_file_limit,
    reset_sigchld,
)
from supervisor.clients.sweep import sweep
from supervisor.clients.syscalls import not_dumpable
from supervisor.config import Config, ConfigErrors, difference
from supervisor.config.model import Tls
from supervisor.config.notation import Listen
from supervisor.control.sd_notify import Notifier
from supervisor.control.stop_reason import Occasion, occasion
from supervisor.control.tls import ServerTls
from supervisor.core.exits import CannotStart, Exit
from supervisor.core.session.lifetime import REMEMBERED_SESSIONS, remembered
from supervisor.delivery import AGAIN
from supervisor.kernel.errors import KernelError
from supervisor.kernel.uplink import UplinkWatch
from supervisor.reports.history.last_failures import KEPT
from supervisor.reports.log.configure import configure
from supervisor.reports.log.redact import Secrets
from supervisor.reports.metrics import loop_lag
from tunnels.base import AnyKind
from tunnels.registry import KINDS

STDOUT = 1  # by its number: a log must not depend on what Python thinks of a closed stream
STALLED = 10.0  # seconds that the engine may be late
LOOK = 5.0  # seconds between two looks, during a drain, what the service manager has in mind now


def run(path: Path, kinds: Mapping[str, AnyKind] = KINDS) -> int:
    """Run the daemon with this configuration to its end; the exit code. Errors at the start are printed."""
    if (code := asked(path, kinds)) is not None:
        return code
    open_standard_streams()
    try:
        return asyncio.run(_main(path, kinds))
    except ConfigErrors as problem:
        print("\n".join(errors_of(problem)), file=sys.stderr)
        return Exit.CONFIG
    except CannotStart as problem:
        print(f"facilitator: {problem}", file=sys.stderr)
        return problem.code


async def _main(path: Path, kinds: Mapping[str, AnyKind]) -> int:
    orders = Orders()
    os.umask(0o077)
    reset_sigchld()
    become_subreaper()
    forbid_core_dumps()
    not_dumpable()
    raise_file_limit()
    notifier = Notifier()
    given = received()
    config = load(path, kinds)
    make_directory(config.facilitator.runtime_dir, "facilitator.runtime_dir", shared=True)
    make_directory(config.facilitator.state_dir, "facilitator.state_dir")
    locked = lock(config.facilitator.runtime_dir) if given is None else given.lock
    secrets = Secrets()
    log = configure(STDOUT, secrets)
    for sentence in tidy(config.facilitator.runtime_dir, config.facilitator.state_dir):
        structlog.get_logger().warning("not a file of ours", text=sentence)
    say_what_is_missing()
    parts = build(path, kinds, config, secrets, notifier, lambda: log.dropped, given)
    daemon = Daemon(path, config, parts, orders, ProcessLifetime(locked, log.flush, given))
    try:
        await daemon.start()
        # what is there now stays: to look through it for garbage would stop the loop for tens of milliseconds
        gc.freeze()
        gc.enable()
        await daemon.serve()
        await daemon.end()
    finally:
        error = await daemon.close()
        log.close()
        os.close(locked)
    return Exit.OK if error is None else Exit.FAILED


@dataclass(frozen=True, slots=True)
class ProcessLifetime:
    """What outlives a change of the program in this process, or ends with it."""

    lock: int  # descriptor of the lock on runtime_dir
    log_written: Callable[[], object]  # waits until the log is written
    given: HandoverDocument | None = None  # what the program before us has left


class Daemon:
    """One run, from the first route to the last."""

    def __init__(
        self, path: Path, config: Config, parts: Parts, orders: Orders, process: ProcessLifetime
    ) -> None:
        self._path, self._config, self._parts, self._orders, self._process = (
            path,
            config,
            parts,
            orders,
            process,
        )
        self._log = structlog.get_logger()
        self._control = (
            config.facilitator.runtime_dir / "control.sock"
        )  # where it is taken, whatever a later file says
        self._tasks: list[asyncio.Task[None]] = []
        self._upgrading = asyncio.Lock()

    # --- the beginning
    # ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Up to READY: the kernel closed, leftovers ended, sockets open, engine running. CannotStart."""
        config, parts = self._config, self._parts
        tls = _tls(config.http.tls)
        self._log.info(
            "starting",
            facilitator=parts.identity.facilitator,
            version=__version__,
            tunnels=len(config.tunnels),
        )
        for warning in config.warnings:
            self._log.warning("configuration", text=str(warning))
        restart = await self._begin()
        await self._listen(config.http.listen, tls)
        self._take_over(config, restart)
        quiet = QuietWatch(parts.engine, SessionMeter(parts.engine.lane), parts.inbox.post)
        endpoints = EndpointWatch(lambda: parts.engine.snapshot, parts.kinds, parts.inbox.post)
        beside: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "loop lag": lambda: loop_lag.watch(parts.metrics.loop_lag),
            "watchdog": self._feed_watchdog,
            "certificates": parts.certificates.run,
            "quiet": quiet.run,
            "uplink": UplinkWatch(parts.inbox.post).run,
            "endpoints": endpoints.run,
            "board samples": parts.board.run,
            "host watch": parts.hostwatch.run,
        }
        self._tasks = [
            asyncio.create_task(parts.engine.run(), name="engine"),
            *(
                asyncio.create_task(self._kept_up(f"task:{name}", run), name=name)
                for name, run in beside.items()
            ),
        ]
        await parts.servers.serve()
        parts.notifier.ready(summary(parts.engine.snapshot))
        self._log.info("ready")
        if (given := self._process.given) is not None:
            text = f"{parts.identity.facilitator}: upgraded from version {given.version} to {__version__}"
            parts.alerter.change(text, {"tunnels": ", ".join(config.tunnels)})

    async def _begin(self) -> frozenset[str]:
        """Close the kernel and go on with what an earlier daemon has left. Tunnels whose settings have
        changed since then. CannotStart.
        """
        config, parts = self._config, self._parts
        left = inherit(config, config.facilitator.runtime_dir, self._process.given)
        if left.ends_by is not None:
            self._orders.resume(left.ends_by)
        try:
            await parts.network.start(first_plan(config, parts.kinds, left.memory))
            parts.runner.start()
            taken = left.take_up(config, parts.runner)
        except KernelError as error:
            raise refused(error) from error
        finally:
            left.close()
        for tunnel, pid in await sweep(
            Journal(config.facilitator.runtime_dir), {entry.place for entry in taken}
        ):
            self._log.warning("ended what an earlier daemon left running", tunnel=tunnel, pid=pid)
        parts.deaths.remember(await asyncio.to_thread(parts.history.start, left.sessions, KEPT))
        parts.engine.remember(
            remembered(
                parts.learned.known, await asyncio.to_thread(parts.history.lengths, REMEMBERED_SESSIONS)
            )
        )
        parts.engine.resume(await asyncio.to_thread(parts.alerter.left_open))
        parts.memory.only(config.tunnels)
        parts.watcher.start()
        self._watch(config)
        parts.alerter.start()
        living = frozenset((entry.tunnel, entry.session) for entry in taken)
        parts.engine.adopt(
            replace(left.memory, living=living, outdated=left.outdated(parts.watcher)), config.tunnels
        )
        return left.changed(config)

    def _watch(self, config: Config) -> None:
        parts = self._parts
        parts.watcher.set(
            lambda: {
                name: parts.files.watched(parts.kinds[each.kind], each)
                for name, each in config.tunnels.items()
            }
        )

    async def _kept_up(self, part: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a part for ever: one that fails begins anew, after a pause."""
        while True:
            with self._parts.faults.contained(part):
                await run()
                return
            await asyncio.sleep(AGAIN)
            self._parts.faults.worked(part)  # until it fails again

    async def _listen(self, listen: Listen, tls: ServerTls | None) -> None:
        from supervisor.app.http_app import face  # takes its time, and the clients are adopted now
        from supervisor.control.client import KEY_FILE
        from supervisor.control.peer_credentials import ClientGuard, new_key

        parts = self._parts
        api = face(parts, lambda: self._config, self._stalled, self.reload, self._orders.drain, self.upgrade)
        with _needed(f"cannot listen on {self._control}; see facilitator.runtime_dir"):
            gate = ClientGuard(parts.runner.is_client, new_key(self._control.with_name(KEY_FILE)))
            await parts.servers.listen_unix(api.control(gate), self._control)
        with _needed(f"cannot listen on {listen}; see http.listen"):
            if tls is None:
                await parts.servers.listen_tcp(api.public(), listen.host, listen.port, None)
            else:
                await parts.servers.listen_tcp(api.public(tls.refusal), listen.host, listen.port, tls.context)
                parts.tls_renewal.start(tls)
        parts.servers.refuse_the_rest()

    def _take_over(self, config: Config, restart: Container[str]) -> None:
        parts = self._parts
        self._config = config
        self._watch(config)
        parts.engine.configure(
            scope(parts.identity.facilitator, config), config.tunnels, held=parts.held.names, restart=restart
        )
        parts.certificates.set(config.tunnels)
        parts.alerter.route(paging(parts.identity, config))
        parts.auditing.set(config.audit)
        parts.hostwatch.set(config)

    # --- while it runs
    # ------------------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Until the end is asked for. An engine that fails ends the daemon: the kernel stays closed, and
        the next start begins anew.
        """
        engine, orders = self._tasks[0], self._orders
        end = asyncio.create_task(orders.end.wait())
        while not orders.end.is_set():
            hup = asyncio.create_task(orders.reload.wait())
            await asyncio.wait({engine, end, hup}, return_when=asyncio.FIRST_COMPLETED)
            if engine.done():
                await engine
            if hup.done():
                orders.reload.clear()
                errors = (await self.reload())["errors"]
                self._signalled("reload", "SIGHUP", "; ".join(errors))
            hup.cancel()
        end.cancel()

    def _signalled(self, action: str, signals: str, why: str = "") -> None:
        """The kernel does not say who sent a signal."""
        result = "failed" if why else "done"
        self._parts.auditing.acted(
            {
                "action": action,
                "tunnel": None,
                "by": {"signal": signals},
                "result": result,
                "why": why or None,
            }
        )

    async def reload(self) -> dict[str, Any]:
        """Take over the file as it is now; a wrong one changes nothing. `done` lines, or `errors`."""
        parts = self._parts
        parts.notifier.reloading()
        parts.tls_renewal.renew()
        result: dict[str, Any] = {
            "done": [],
            "errors": ["not all of it was taken over: an internal error; the log has the details"],
        }
        with parts.faults.contained("reload"):
            result = self._reload()
        parts.metrics.reloaded(not result["errors"])
        parts.notifier.ready(summary(parts.engine.snapshot))
        return result

    def _reload(self) -> dict[str, Any]:
        try:
            config = load(self._path, self._parts.kinds)
        except (ConfigErrors, CannotStart) as problem:
            self._log.error("reload refused, nothing changed", errors=errors_of(problem))
            return {"done": [], "errors": errors_of(problem)}
        change, parts = difference(self._config, config), self._parts
        self._take_over(config, change.restart)
        self._log.info("reloaded", done=change.lines())
        wrong = [
            each.text
            for each in examine(config.tunnels, parts.kinds, parts.files)
            if each.weight is Weight.ERROR
        ]
        if wrong:
            self._log.error("a customer's file cannot be used; its tunnel would not start", errors=wrong)
        if change:
            parts.alerter.change(
                f"{parts.identity.facilitator}: the configuration was reloaded",
                {"done": "; ".join(change.lines())},
            )
        return {"done": [*change.lines(), *wrong], "errors": []}

    async def upgrade(self) -> dict[str, Any]:
        """Go on with the code as it is now. Does not return where it succeeds: the process has become the
        new program; else `errors`.
        """
        async with self._upgrading:
            return {
                "errors": await Upgrade(
                    self._parts, self._config, self._process.lock, self._process.log_written
                ).run()
            }

    async def _feed_watchdog(self) -> None:
        interval = self._parts.notifier.watchdog_interval
        while interval is not None:
            if self._stalled() is None:
                self._parts.notifier.watchdog()
            await asyncio.sleep(interval)

    def _stalled(self) -> str | None:
        late = self._parts.engine.overdue()
        return None if late < STALLED else f"the engine is {late:.0f} s late"

    # --- the end
    # ------------------------------------------------------------------------------------------------------

    async def end(self) -> None:
        """What whoever ends us has in mind, also when that changes on the way."""
        if await asyncio.to_thread(occasion) is Occasion.RESTART:
            self._hand_over()
            return
        looking = asyncio.create_task(self._look())
        await self.stop()
        looking.cancel()

    async def _look(self) -> None:
        """A host that goes down waits for us, and so does who restarts us: then the flows are not waited
        for, also not any longer.
        """
        orders = self._orders
        while not (orders.now.is_set() or orders.hand_over.is_set()):
            match await asyncio.to_thread(occasion):
                case Occasion.SHUTDOWN:
                    self._log.info("the host shuts down: flows are not waited for")
                    orders.now.set()
                case Occasion.RESTART:
                    orders.hand_over.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await orders.now.wait()

    def _hand_over(self) -> None:
        """The next one takes over everything as it stands, but for a drain: it shall serve."""
        self._log.info("handing over to the next one: clients and routes stay as they are")
        self._parts.memory.end_by(None)
        self._parts.notifier.stopping()

    async def stop(self) -> None:
        """As soon as nothing is under way any more, or as soon as that is ordered. Then the kernel is left
        as `on_exit` says.

        Unless somebody wants it to go on: then nothing ends.
        """
        parts = self._parts
        ending = Ending(parts, self._config, self._orders, self._tasks[0])
        if self._orders.signalled:
            self._signalled("stop", "SIGTERM or SIGINT")
        await ending.drain()
        if self._orders.hand_over.is_set() and not self._orders.now.is_set():
            self._hand_over()
            return
        await ending.log_off()
        parts.prober.set({})
        await parts.network.close(keep=self._config.on_exit == "keep")
        try:
            forget(self._config.facilitator.runtime_dir)
        except OSError as error:
            self._log.error(
                "the next daemon would end at once: the order to end cannot be removed; facilitator cleanup",
                error=str(error),
            )
        self._log.info(
            "stopped",
            left=[name for name, (_, state) in parts.engine.snapshot.tunnels.items() if state.running],
        )

    async def close(self) -> Exception | None:
        """Let go of everything, in this order, whatever one of them does; also after a start that failed
        half-way.

        Each error is logged; the first one is returned.
        """
        parts = self._parts
        errors: list[Exception] = []
        async with contextlib.AsyncExitStack() as stack:  # it calls the last one first
            for part, close in reversed(
                (
                    ("tasks", self._end_tasks),
                    ("servers", parts.servers.close),
                    ("TLS renewal", parts.tls_renewal.close),
                    ("prober", parts.prober.close),
                    ("flows", parts.flows.close),
                    ("watcher", parts.watcher.close),
                    ("runner", parts.runner.close),
                    ("network", lambda: parts.network.close(keep=True)),
                    ("audit", parts.auditing.close),
                    ("alerter", parts.alerter.close),
                    ("history", parts.history.close),
                    ("control socket", self._remove_socket),
                )
            ):
                stack.push_async_callback(self._closed, part, close, errors)
        return next(iter(errors), None)

    async def _closed(
        self, part: str, close: Callable[[], Awaitable[object] | None], errors: list[Exception]
    ) -> None:
        try:
            closing = close()
            if closing is not None:
                await closing
        except Exception as error:
            self._log.error("a part could not be closed", part=part, error=repr(error))
            errors.append(error)

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _remove_socket(self) -> None:
        with contextlib.suppress(OSError):
            disk.make_way(self._control)


def _tls(it: Tls | None) -> ServerTls | None:
    """Before anything is touched: wrong files are a wrong configuration."""
    if it is None:
        return None
    try:
        with _needed("http.tls cannot be used", Exit.CONFIG):
            return ServerTls(it.certificate, it.key, it.client_ca, it.client_subjects)
    except ValueError as error:
        raise CannotStart(Exit.CONFIG, str(error)) from None


@contextlib.contextmanager
def _needed(sentence: str, code: Exit = Exit.FAILED) -> Iterator[None]:
    """Without this the daemon does not start: what the system refuses becomes a sentence and an exit code."""
    try:
        yield
    except OSError as error:
        raise CannotStart(
            Exit.NO_RIGHT if isinstance(error, PermissionError) else code, f"{sentence} ({error})"
        ) from None
