"""Starts clients, and adopts those of an earlier daemon.

    Order -> prepare -> Prepared -> launch.start -> Client + JournalEntry
    FoundClient (of the journal) -> adopt -> Client

All that can go wrong before a client runs is a SpawnError; nothing is left behind then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import uuid
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from supervisor.clients import launch as launching
from supervisor.clients import output, processes
from supervisor.clients.adoption import FoundClient
from supervisor.clients.cgroup import ClientGroup
from supervisor.clients.client import Client, Shared
from supervisor.clients.inotify import InotifyWatches
from supervisor.clients.launch import SpawnError
from supervisor.clients.line_handlers import LineHandlers
from supervisor.clients.lines import LineSplitter
from supervisor.clients.orders import Order, Prepared, local_trouble
from supervisor.clients.ports import PortPicker
from supervisor.clients.process_journal import JournalEntry
from supervisor.clients.reaper import ProcessTree, Reaper
from supervisor.clients.sandbox import boundary
from supervisor.clients.sockets import NotifySocket
from supervisor.clients.sweep import tag
from supervisor.clients.users import User, Users
from tunnels.base import AnyKind, Carrier, LineSource, Placement, Reason, Tunnel, device_name

InBackground = Callable[[Coroutine[Any, Any, None]], object]  # runs it as a task of the runner


def _no_lane(tunnel: str, slot: int) -> int | None:
    return None


@dataclass(frozen=True, slots=True)
class ClientSources:
    """What clients are started from."""

    kinds: Mapping[str, AnyKind]
    read_inputs: launching.InputReader
    lane_of: Callable[[str, int], int | None] = _no_lane  # tunnel, slot -> fwmark of its packets
    private: tuple[Path, ...] = ()  # directories that no client may open
    ports: PortPicker = field(default_factory=PortPicker)
    group: ClientGroup | None = None  # where clients move to; None: they stay in the daemon's group


class Spawner:
    """Prepares, starts and adopts clients. Everything happens on the event loop of the main thread."""

    def __init__(
        self,
        runtime_dir: Path,
        sources: ClientSources,
        handlers: LineHandlers,
        reaper: Reaper,
        in_background: InBackground,
    ) -> None:
        """`in_background` closes a client that failed halfway."""
        self._directory, self._sources, self._handlers = runtime_dir, sources, handlers
        self._reaper, self._in_background = reaper, in_background
        self._shared = Shared(InotifyWatches(), asyncio.Lock())
        self._users = Users()
        self._private = (runtime_dir, *(path.resolve() for path in sources.private))
        self._boot = processes.boot_id()

    def start(self) -> None:
        """Begin to watch files, on the running loop."""
        self._shared.watches.start()

    async def close(self) -> None:
        """Watch no more files. After all clients are closed."""
        await self._shared.watches.close()

    def spawn(self, order: Order) -> tuple[Client, JournalEntry]:
        """Start the client that is ordered; the entry describes it for a later daemon. SpawnError."""
        with launching.own_fault("the client could not be started"):
            prepared = self._prepare(order)
            id, key = uuid.uuid4().hex, secrets.token_hex(16) if prepared.asks_key else ""
            with local_trouble():
                client, offset = self._run(prepared, id, key)
            return client, replace(self._entry(order, client, prepared, id, key), output=offset)

    def adopt(self, tunnel: Tunnel, found: FoundClient, *, starting: bool) -> Client:
        """Go on with the client of an earlier daemon; `starting`: it is not connected yet.

        SpawnError: it cannot be adopted, because something that it has said may be lost.
        """
        with launching.own_fault("the client could not be taken up"), local_trouble():
            return self._adopted(tunnel, found, starting)

    # --- adopting
    # ------------------------------------------------------------------------------------------------------

    def _adopted(self, tunnel: Tunnel, found: FoundClient, starting: bool) -> Client:
        entry, kind = found.entry, self._sources.kinds[tunnel.kind]
        if entry.kind != tunnel.kind:
            raise SpawnError(Reason.LOCAL, f"it is of kind {entry.kind}")
        if entry.notify and starting:  # its notification that it is up may have got lost
            raise SpawnError(Reason.LOCAL, "it may have come up while nobody listened")
        inputs = self._inputs(tunnel, kind, entry.place)
        handler = self._handlers.make(kind, tunnel, entry.session, entry.place, inputs)
        directory = self._directory_of(entry.place)
        tree = ProcessTree(entry.pid, tag(self._directory, entry.tunnel, entry.id), found.child)
        with contextlib.ExitStack() as undo:
            notify = _notify_socket(directory, undo) if entry.notify else None
            offset = output.unsure_from(directory, entry.output) if starting else None
            if not starting:
                handler.questions.accept()
            handler.log.recall(
                handler.masker.lines(LineSplitter().feed(output.read_before(directory, offset)))
            )
            client = Client(tree, handler, self._shared, directory, offset, kind, os.dup(found.pidfd))
            undo.callback(lambda: self._in_background(client.close()))
            if notify is not None:
                client.replay(LineSource.NOTIFY, "READY=1")
            client.attach(None if entry.management is None else Path(entry.management), entry.key, notify)
            client.wake()
            undo.pop_all()
        if found.child:
            self._reaper.add(entry.pid)
        self._move(entry.pid)
        return client

    def _move(self, pid: int) -> None:
        """Into the clients' group, with all that it has started before."""
        group = self._sources.group
        if group is not None and group.add(pid):
            for each in processes.descendants(pid):
                group.add(each)

    # --- preparing
    # ------------------------------------------------------------------------------------------------------

    def _prepare(self, order: Order) -> Prepared:
        tunnel = order.tunnel
        kind = self._sources.kinds[tunnel.kind]
        if not order.resume:
            self._handlers.forget(order.place)
        inputs = self._inputs(tunnel, kind, order.place)
        notes = launching.examined(kind, tunnel, inputs)
        launching.require(kind.binaries)
        user, placement = self._placement(order, kind)
        try:
            launch = kind.launch(tunnel, placement, inputs)
        except ValueError as error:
            raise launching.unusable(error) from error
        launching.require(launch.argv[:1])
        group = _group(order, placement.mark)
        sandbox = boundary(launch, placement.directory, self._private, user, group)
        handler = self._handlers.make(kind, tunnel, order.session, order.place, inputs)
        for note in notes:
            handler.log.note(str(note))
        return Prepared(placement, launch, handler, kind, sandbox)

    def _placement(self, order: Order, kind: AnyKind) -> tuple[User | None, Placement]:
        with local_trouble():
            port = self._sources.ports.pick() if kind.carrier is Carrier.PROXY else 0
        directory = self._directory_of(order.place)
        launching.prepare_directory(directory)
        user = self._user(kind, directory)
        mark = self._sources.lane_of(order.tunnel.name, order.slot) or 0
        group = _group(order, mark)
        return user, Placement(
            directory,
            device_name(order.tunnel, order.slot),
            port,
            sys.executable,
            order.remote,
            mark,
            None if user is None else (user.uid, group or user.gid),
        )

    def _inputs(self, tunnel: Tunnel, kind: AnyKind, slot: str) -> dict[str, bytes]:
        inputs = launching.read_inputs(kind, tunnel, self._sources.read_inputs)
        return self._handlers.with_kept(slot, inputs)

    def _user(self, kind: AnyKind, directory: Path) -> User | None:
        try:
            with local_trouble():
                return self._users.pick(directory) if kind.drops_root else None
        except LookupError as error:
            raise SpawnError(Reason.MISSING_RIGHT, str(error)) from error

    def _directory_of(self, slot: str) -> Path:
        return self._directory / "clients" / slot

    # --- starting
    # ------------------------------------------------------------------------------------------------------

    def _run(self, prepared: Prepared, id: str, key: str) -> tuple[Client, int]:
        """Start the process and everything that listens to it; undo all of it if that fails. The client, and
        the offset at which its output begins.
        """
        directory, launch = prepared.placement.directory, prepared.launch
        launching.prepare_directory(directory, launch)
        marked = tag(self._directory, prepared.handler.tunnel, id)
        with contextlib.ExitStack() as undo:
            notify = _notify_socket(directory, undo) if launch.notify else None
            told = None if notify is None else notify.path
            fd = output.open_for_client(directory)
            try:
                offset = os.fstat(fd).st_size
                pid = launching.start(launch, directory, marked, fd, told, sandbox=prepared.sandbox, key=key)
            finally:
                os.close(fd)
            self._reaper.add(pid)
            undo.callback(self._undo_start, pid)
            self._move(pid)
            client = self._client(ProcessTree(pid, marked), prepared, offset)
            undo.callback(lambda: self._in_background(client.close()))
            client.attach(launch.management, key, notify)
            undo.pop_all()
        return client, offset

    def _client(self, tree: ProcessTree, prepared: Prepared, offset: int) -> Client:
        directory, pidfd = prepared.placement.directory, os.pidfd_open(tree.pid)
        return Client(tree, prepared.handler, self._shared, directory, offset, prepared.kind, pidfd)

    def _undo_start(self, pid: int) -> None:
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._reaper.discard(pid)

    def _entry(self, order: Order, client: Client, prepared: Prepared, id: str, key: str) -> JournalEntry:
        pid, placement, launch = client.tree.pid, prepared.placement, prepared.launch
        known = processes.stat_of_new(pid)
        is_device = prepared.kind.carrier is Carrier.DEVICE
        return JournalEntry(
            tunnel=order.tunnel.name,
            session=order.session,
            id=id,
            pid=pid,
            start=known.start if known else 0,
            boot=self._boot,
            device=placement.device if is_device else None,
            port=None if is_device else placement.port,
            lane=placement.mark or None,
            slot=order.slot,
            management=None if launch.management is None else str(launch.management),
            kind=prepared.kind.name,
            notify=launch.notify,
            key=key,
        )


def _group(order: Order, mark: int) -> int | None:
    """The client of an exclusive tunnel runs in a group of its own, whose number is that of its lane: so the
    kernel knows its packets (`kernel.nft.ruleset`).
    """
    return mark if order.tunnel.exclusive else None


def _notify_socket(directory: Path, undo: contextlib.ExitStack) -> NotifySocket:
    notify = NotifySocket(directory / "notify.sock")
    undo.callback(notify.close)
    return notify
