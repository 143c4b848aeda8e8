"""`facilitator run`: starts the parts, serves until it is asked to end, reloads, upgrades, and ends
in order.

start: host closed (`supervisor.early_close`) -> what ran adopted, the rest ended -> sockets -> READY
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from common.sd_notify import SystemdNotifier
from supervisor import disk
from supervisor.app.adoption import inherit
from supervisor.app.directories import lock, make_directory, refused, tidy
from supervisor.app.engine_view import stalled
from supervisor.app.files import errors_of
from supervisor.app.first_plan import first_plan, scope
from supervisor.app.fleet.locks import recall_locks
from supervisor.app.listening import listen, server_tls
from supervisor.app.memory import settle
from supervisor.app.owner import Ownership, owner, take_lock
from supervisor.app.paging_config import paging
from supervisor.app.parts import Parts, RunInputs
from supervisor.app.preflight.isolation import say_what_is_missing
from supervisor.app.shutdown import Shutdown, ShutdownRequests
from supervisor.app.status_line import summary
from supervisor.app.stores.last_configuration import ConfigurationReader, Loaded, Parse
from supervisor.app.stores.upgrade_document import check_requested, received
from supervisor.app.tasks import start_tasks
from supervisor.app.upgrade import ProcessLifetime, Upgrade
from supervisor.app.wiring import build
from supervisor.clients.process_journal import Journal, JournalEntry
from supervisor.clients.processes import (
    become_subreaper,
    forbid_core_dumps,
    open_standard_streams,
    raise_file_limit,
    reset_sigchld,
)
from supervisor.clients.sweep import sweep
from supervisor.clients.syscalls import not_dumpable
from supervisor.config import Config, ConfigDifference, ConfigErrors, changes, chosen, difference
from supervisor.config.difference import with_tunnels_of
from supervisor.core.exits import CannotStart, Exit
from supervisor.core.session.lifetime import REMEMBERED_SESSIONS, remembered
from supervisor.core.views.documents import ReloadDocument, UpgradeDocument
from supervisor.kernel.errors import KernelError
from supervisor.reports.history.last_failures import MAX_FAILURES
from supervisor.reports.log.configure import configure
from supervisor.reports.log.redact import Secrets
from supervisor.version import version
from tunnels.base import AnyKind
from tunnels.registry import KINDS

if TYPE_CHECKING:
    from supervisor.control.api import HTTPApi

STDOUT = 1  # by its number: a log must not depend on what Python thinks of a closed stream


def run(
    path: Path, kinds: Mapping[str, AnyKind] = KINDS, *, watch: bool = False, parse: Parse | None = None
) -> int:
    """Run the daemon until it ends; the exit code. Errors at the start are printed. `watch`: reload whenever
    the file changes; `parse`: the configuration in a text, with these kinds; None: in this process.
    """
    if (code := check_requested(path, kinds)) is not None:
        return code
    open_standard_streams()
    try:
        return asyncio.run(_main(path, kinds, watch, parse))
    except ConfigErrors as problem:
        print("\n".join(errors_of(problem)), file=sys.stderr)
        return Exit.CONFIG
    except CannotStart as problem:
        print(f"facilitator: {problem}", file=sys.stderr)
        return problem.code


async def _main(path: Path, kinds: Mapping[str, AnyKind], watch: bool, parse: Parse | None) -> int:
    requests = ShutdownRequests()
    os.umask(0o077)
    reset_sigchld()
    become_subreaper()
    forbid_core_dumps()
    not_dumpable()
    raise_file_limit()
    notifier = SystemdNotifier()
    handover = received()
    gc.freeze()  # the imported code stays: what follows needs not look through it
    reader = ConfigurationReader(path, kinds, parse)
    start = reader.load_or_last_good()
    config = start.config
    make_directory(config.facilitator.runtime_dir, "facilitator.runtime_dir", shared=True)
    make_directory(config.facilitator.state_dir, "facilitator.state_dir")
    owned = owner(path)
    locked = take_lock(lock, config.facilitator.runtime_dir, owned) if handover is None else handover.lock
    secrets = Secrets()
    log = configure(STDOUT, secrets)
    for sentence in tidy(config.facilitator.runtime_dir, config.facilitator.state_dir):
        structlog.get_logger().warning("not a file of facilitator's", text=sentence)
    say_what_is_missing()
    parts = build(config, RunInputs(path, kinds, secrets, notifier, lambda: log.dropped, owned, handover))
    process = ProcessLifetime(locked, log.flush, owned, handover, watch)
    daemon = Daemon(reader, start, parts, requests, process)
    try:
        await daemon.start()
        settle()
        await daemon.serve()
        await daemon.end()
    finally:
        error = await parts.closing.close()
        log.close()
        os.close(locked)
    return Exit.OK if error is None else Exit.FAILED


class Daemon:
    """One run. `Parts.closing` closes what `start` has started."""

    def __init__(
        self,
        reader: ConfigurationReader,
        start: Loaded,
        parts: Parts,
        requests: ShutdownRequests,
        process: ProcessLifetime,
    ) -> None:
        self._reader, self._config, self._parts = reader, start.config, parts
        self._start = start
        self._wanted = start.config  # by the file; `_config` may have older settings of a tunnel that goes on
        self._requests, self._process = requests, process
        self._log = structlog.get_logger()
        self._engine: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()  # of a reload or an upgrade: one after the other
        before = process.handover
        self._ownership = Ownership(process.owner, None if before is None else before.parent)

    # --- start

    async def start(self) -> None:
        """Start everything up to READY: kernel, adoption, sockets, engine, background tasks. CannotStart."""
        config, parts = self._config, self._parts
        tls = server_tls(config.http.tls)
        name = parts.identity.facilitator
        self._log.info("starting", facilitator=name, version=version(), tunnels=len(config.tunnels))
        self._log.info("settings", that_are_not_default=chosen(config))
        for warning in config.warnings:
            self._log.warning("configuration", text=str(warning))
        restart = await self._begin()
        await listen(
            parts, self._api(), config.facilitator.runtime_dir / disk.CONTROL_SOCKET, config.http.listen, tls
        )
        parts.watchers.client_files.set(config.tunnels)
        parts.watchers.client_files.watch(self._usable)
        self._take_over(config, restart)
        if parts.fleet is not None:
            parts.fleet.begin()
        if self._start.errors:
            self._refused(self._start.errors)
        else:
            self._accepted(self._start)
        self._engine = asyncio.create_task(parts.engine.run(), name="engine")
        parts.closing.add("engine", self._end_engine)
        self._start_background()
        await parts.servers.serve()
        parts.notifier.ready(summary(parts.engine.snapshot))
        self._log.info("ready")
        if (handover := self._process.handover) is not None:
            text = f"{name}: upgraded from version {handover.version} to {version()}"
            parts.reports.pagers.change(text, {"tunnels": ", ".join(config.tunnels)})

    def _start_background(self) -> None:
        parts = self._parts
        start_tasks(parts)
        if parts.watchers.loop.last_stack:
            how = "was stuck and was ended" if parts.watchers.loop.was_stuck else "crashed"
            self._log.error(f"the last daemon {how}", stack=parts.watchers.loop.last_stack)
        if self._process.watch:
            parts.watchers.configuration.watch(self._requests.reload.set)

    async def _begin(self) -> frozenset[str]:
        """Close the kernel and adopt what an earlier daemon has left. Returns the tunnels whose settings have
        changed since then. CannotStart.
        """
        config, parts = self._config, self._parts
        left = inherit(config, config.facilitator.runtime_dir, self._process.handover)
        if left.ends_by is not None:
            self._requests.resume(left.ends_by)
        try:
            group = parts.data_plane.group
            if group is not None and not group.make():
                self._log.warning(
                    "clients stay in the daemon's control group: killing it ends them", why=group.unavailable
                )
            denied = () if parts.fleet is None else parts.fleet.denied
            await recall_locks(parts.locks, config, parts.data_plane.network, left.memory.lanes)
            await parts.data_plane.network.start(first_plan(config, parts.kinds, left.memory, denied))
            parts.data_plane.runner.start()
            taken = left.take_up(config, parts.data_plane.runner)
        except KernelError as error:
            raise refused(error) from error
        finally:
            left.close()
        await self._sweep(taken)
        parts.reports.last_failures.restore(
            await asyncio.to_thread(parts.reports.history.start, left.sessions, MAX_FAILURES)
        )
        await self._recall_reports()
        parts.stores.records.only(config.tunnels)
        parts.watchers.inputs.start()
        self._watch_inputs(config)
        parts.reports.silencing.start()
        parts.reports.pagers.start()
        living = frozenset((entry.tunnel, entry.session) for entry in taken)
        outdated = left.outdated(parts.watchers.inputs)
        parts.engine.adopt(replace(left.memory, living=living, outdated=outdated), config.tunnels)
        return left.changed(config)

    async def _sweep(self, adopted: list[JournalEntry]) -> None:
        """End the processes of an earlier daemon that were not adopted."""
        journal = Journal(self._config.facilitator.runtime_dir)
        for tunnel, pid in await sweep(journal, {entry.place for entry in adopted}):
            self._log.warning("ended what an earlier daemon left running", tunnel=tunnel, pid=pid)

    async def _recall_reports(self) -> None:
        """What earlier runs have learned about session lengths, and the incidents they left open."""
        parts = self._parts
        lengths = await asyncio.to_thread(parts.reports.history.session_lengths, REMEMBERED_SESSIONS)
        parts.engine.remember(remembered(parts.stores.second_sessions.known, lengths))
        parts.engine.resume(await asyncio.to_thread(parts.reports.pagers.open_incidents))

    def _api(self) -> HTTPApi:
        from supervisor.app.http_app import http_api  # slow to import, see there

        requests, reload, upgrade = self._requests, self.reload, self.upgrade
        stuck = partial(stalled, self._parts.engine)
        return http_api(
            self._parts, lambda: self._config, stuck, reload, requests.drain, upgrade, self._hand_over
        )

    def _watch_inputs(self, config: Config) -> None:
        parts = self._parts
        parts.watchers.inputs.set(
            lambda: {
                name: parts.files.watched(parts.kinds[tunnel.kind], tunnel)
                for name, tunnel in config.tunnels.items()
            }
        )

    def _take_over(self, config: Config, restart: Container[str]) -> None:
        """Run with this configuration from now on."""
        parts, self._config = self._parts, config
        self._watch_inputs(self._wanted)
        parts.engine.configure(
            scope(parts.identity.facilitator, config),
            config.tunnels,
            held=parts.stores.stopped.names if parts.fleet is None else parts.fleet.held,
            restart=restart,
        )
        parts.reports.hooks.set(parts.engine.snapshot)
        parts.watchers.certificates.set(config.tunnels)
        parts.reports.pagers.route(paging(parts.identity, config))
        carried = {d.staff_side: name for name, each in config.tunnels.items() for d in each.destinations}
        parts.people.set(config.hub, config.staff.networks, carried)
        parts.reports.auditing.set(config.audit)
        parts.watchers.host.set(config)

    def _accepted(self, good: Loaded) -> None:
        """This is the configuration file, and it is good."""
        self._parts.stores.last_configuration.keep(good.text, good.config)
        self._parts.watchers.configuration.judged(())

    def _refused(self, errors: Sequence[str]) -> None:
        """The configuration file has these errors; an earlier configuration is in effect."""
        self._log.error("the configuration file is refused, the last good one is in effect", errors=errors)
        self._parts.watchers.configuration.judged(errors)

    # --- while it runs

    async def serve(self) -> None:
        """Until the end is requested. An engine that fails ends the daemon: the kernel stays closed, and the
        next daemon adopts what runs.
        """
        requests, engine = self._requests, self._running_engine()
        end = asyncio.create_task(requests.graceful.wait())
        while not requests.graceful.is_set():
            hup = asyncio.create_task(requests.reload.wait())
            await asyncio.wait({engine, end, hup}, return_when=asyncio.FIRST_COMPLETED)
            if engine.done():
                await engine
            if hup.done():
                requests.reload.clear()
                errors = (await self.reload())["errors"]
                self._parts.reports.auditing.signalled("reload", "SIGHUP", "; ".join(errors))
            hup.cancel()
        end.cancel()

    async def end(self) -> None:
        """Shut down as requested, or hand over to the next daemon."""
        await Shutdown(self._parts, self._config, self._requests, self._running_engine()).run()

    def _hand_over(self, asks: str) -> str | None:
        """Another daemon takes this one's place, if it has the same owner; else why not."""
        if (refusal := self._ownership.refusal(asks)) is None:
            self._log.info("another daemon of the same owner takes over", owner=asks)
            self._requests.hand_over.set()
            self._requests.graceful.set()
        return refusal

    async def _end_engine(self) -> None:
        engine = self._running_engine()
        engine.cancel()
        await asyncio.gather(engine, return_exceptions=True)

    def _running_engine(self) -> asyncio.Task[None]:
        assert self._engine is not None, "the daemon was not started"
        return self._engine

    async def reload(self) -> ReloadDocument:
        """Read the configuration again; a wrong one changes nothing. `done` and `errors`: lines to show."""
        parts = self._parts
        failed = "not all of it was applied: an internal error; the log has the details"
        result: ReloadDocument = {"done": [], "errors": [failed], "problems": []}
        async with self._changing:
            parts.notifier.reloading()
            parts.watchers.tls.renew()
            with parts.faults.contained("reload"):
                result = await self._reload()
        parts.reports.metrics.reloaded(not result["errors"])
        parts.notifier.ready(summary(parts.engine.snapshot))
        return result

    async def _reload(self) -> ReloadDocument:
        parts = self._parts
        try:
            new = await asyncio.to_thread(self._reader.load)
        except (ConfigErrors, CannotStart) as problem:
            self._refused(errors := errors_of(problem))
            return {"done": [], "errors": errors, "problems": []}
        self._accepted(new)
        config = new.config
        settings, self._wanted = list(changes(self._config, config)), config
        change = self._put_in_force()
        self._log.info("reloaded", done=change.lines(), settings=settings)
        problems = [f"{name}: {text}" for name, text in parts.watchers.client_files.problems.items()]
        if problems:
            self._log.error("files cannot be used; their tunnels could not start", problems=problems)
        if change:
            text = f"{parts.identity.facilitator}: the configuration was reloaded"
            parts.reports.pagers.change(text, {"done": "; ".join(change.lines())})
        return {"done": [*change.lines()], "errors": [], "problems": problems}

    def _put_in_force(self) -> ConfigDifference:
        """Take over what the configuration file wants. A tunnel that is up and could not be started again
        goes on with its earlier settings.
        """
        files, wanted = self._parts.watchers.client_files, self._wanted
        files.set(wanted.tunnels)
        change = difference(self._config, wanted).withholding(files.not_to_be_ended)
        self._take_over(with_tunnels_of(wanted, self._config, change.withheld), change.restart)
        return change

    def _usable(self, tunnel: str) -> None:
        """The files of this tunnel can be used: what was withheld for them is taken over."""
        if self._wanted.tunnels.get(tunnel) != self._config.tunnels.get(tunnel):
            self._log.info("applied, as its files can be used now", tunnel=tunnel)
            self._put_in_force()

    async def upgrade(self) -> UpgradeDocument:
        """Continue as the program that is installed now (`supervisor.app.upgrade`). Returns only if that
        failed: `errors`.
        """
        async with self._changing:
            process, parent = self._process, self._ownership.parent
            upgrade = Upgrade(self._parts, self._config, process.lock, process.log_written, parent)
            return {"errors": await upgrade.run()}
