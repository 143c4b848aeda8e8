"""Runs the clients: the engine's `Runner`. Orders come in, and what comes of them is posted as events.

spawn -> launch.start -> Client (output, management, notifications -> dialogue -> ClientSaid) -> its end, told
by a pidfd -> whatever it left behind is ended and reaped -> what it had said is heard out -> Exited. One
process tree per slot of a tunnel at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import secrets
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from supervisor.clients import launch as launching
from supervisor.clients import output, processes
from supervisor.clients.adoption import FoundClient
from supervisor.clients.client import Client, Desk, Voice
from supervisor.clients.inotify import Notices
from supervisor.clients.launch import SpawnError
from supervisor.clients.lines import LineSplitter, Masker
from supervisor.clients.log import Log
from supervisor.clients.orders import Key, Order, Prepared, local_trouble
from supervisor.clients.ports import PortPicker
from supervisor.clients.process_journal import Journal, JournalEntry
from supervisor.clients.questions import Questions
from supervisor.clients.reaper import ProcessTree, Reaper
from supervisor.clients.sandbox import boundary
from supervisor.clients.sockets import NotifySocket
from supervisor.clients.sweep import end_strangers, tag
from supervisor.clients.totp import Codes
from supervisor.clients.usage import ResourceUsage, usage_of
from supervisor.clients.users import User, Users
from supervisor.core.events import Answered, Event, Exited, Kept, Spawned, SpawnFailed
from tunnels.base import AnyKind, Carrier, LineSource, Placement, Reason, Tunnel, device_name, inputs_of

LEFTOVERS_WITHIN = 5.0  # seconds; longer only for a process that hangs in the kernel
DRAIN_WITHIN = 0.4  # seconds for what an ended client had said


class Runner:
    """Starts, watches and ends clients; see `supervisor.engine.Runner`. Everything happens on the event
    loop of the main thread.
    """

    def __init__(
        self,
        kinds: Mapping[str, AnyKind],
        runtime_dir: Path,
        read_inputs: launching.InputReader,
        post: Callable[[Event], None],
        ports: PortPicker | None = None,
        on_line: Callable[[str, str], None] = lambda tunnel, text: None,
        lane_of: Callable[[str, int], int | None] = lambda tunnel, slot: None,
        codes: Codes | None = None,
        kept: Mapping[str, str] = MappingProxyType({}),
        private: Sequence[Path] = (),
    ) -> None:
        """`kept`: what spares the next login, by slot, as an earlier `Runner` had it. `private`:
        directories that are no client's.
        """
        self._kinds, self._directory, self._read_inputs, self._post = (
            kinds,
            runtime_dir.resolve(),
            read_inputs,
            post,
        )
        self._ports, self._on_line, self._lane_of = ports or PortPicker(), on_line, lane_of
        self._desk = Desk(Notices(), asyncio.Lock())
        self._journal, self._boot = Journal(self._directory), processes.boot_id()
        self._reaper = Reaper()
        self._clients: dict[Key, Client] = {}
        self._logs: dict[str, Log] = {}
        self._waiting: dict[Key, Order] = {}
        self._codes = codes or Codes(self._directory / "codes.json")
        self._kept = dict(kept)  # by slot
        self._ending: set[asyncio.Task[None]] = set()
        self._users, self._private = Users(), (self._directory, *(path.resolve() for path in private))

    def start(self) -> None:
        """Begin; before the first `spawn`, on the running loop. Leftovers of an earlier daemon were swept
        by now.
        """
        self._desk.notices.start()
        self._reaper.start()

    async def close(self) -> None:
        """Stop listening to the clients. They go on running: ending them is the engine's business."""
        self._reaper.close()
        for client in self._clients.values():
            if not client.reaped:
                asyncio.get_running_loop().remove_reader(client.pidfd)
        for task in self._ending:
            task.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)
        await asyncio.gather(*(client.close() for client in self._clients.values()))
        for log in self._logs.values():
            log.close()
        await self._desk.notices.close()

    # --- clients of an earlier daemon
    # --------------------------------------------------------------------------------------

    def adopt(self, tunnel: Tunnel, found: FoundClient, *, starting: bool) -> None:
        """Go on with a client, which may be `starting` still. After `start`.

        SpawnError: it cannot be gone on with, because nobody can tell any more what it says or has said.
        """
        entry = found.entry
        with launching.own_fault("the client could not be taken up"), local_trouble():
            client = self._adopted(tunnel, found, starting)
        self._clients[entry.tunnel, entry.session] = client
        if found.child:
            self._reaper.add(entry.pid)
        asyncio.get_running_loop().add_reader(client.pidfd, self._on_end, entry.tunnel, client)

    def _adopted(self, tunnel: Tunnel, found: FoundClient, starting: bool) -> Client:
        entry, kind = found.entry, self._kinds[tunnel.kind]
        if entry.kind != tunnel.kind:
            raise SpawnError(Reason.LOCAL, f"it is of kind {entry.kind}")
        if entry.notify and starting:  # it may have said that it is up to nobody
            raise SpawnError(Reason.LOCAL, "it may have come up while nobody listened")
        voice = self._voice(tunnel, entry.session, entry.place, self._inputs(tunnel, kind, entry.place))
        directory = self._directory / "clients" / entry.place
        family = ProcessTree(entry.pid, tag(self._directory, entry.tunnel, entry.id), found.child)
        with contextlib.ExitStack() as undo:
            notify = NotifySocket(directory / "notify.sock") if entry.notify else None
            if notify is not None:
                undo.callback(notify.close)
            voice.log.recall(voice.masker.lines(LineSplitter().feed(output.read_before(directory))))
            client = Client(family, entry.id, voice, self._desk, directory, None, kind, os.dup(found.pidfd))
            undo.callback(lambda: self._in_background(client.close()))
            if notify is not None:
                client.replay(LineSource.NOTIFY, "READY=1")
            client.attach(None if entry.management is None else Path(entry.management), entry.key, notify)
            client.wake()
            undo.pop_all()
        return client

    # --- orders
    # ------------------------------------------------------------------------------------------------------

    def spawn(
        self, tunnel: Tunnel, session: int, resume: bool = False, remote: int = 0, slot: int = 0
    ) -> None:
        """Start the client of this session: `Spawned` or `SpawnFailed` follows. Many orders at once are
        spread over turns of the loop.
        """
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._spawn_next)
        order = Order(tunnel, session, resume, remote, slot)
        self._waiting[order.key] = order

    def renew(self, tunnel: str, session: int) -> None:
        """Tell the client to reconnect in place."""
        client = self._clients.get((tunnel, session))
        if client is not None:
            client.tell(client.kind.renew)

    def answer(self, tunnel: str, text: str) -> None:
        """The answer to the question of the tunnel's client, the latest one; `Answered` follows."""
        client = max(self._of(tunnel), key=lambda each: each.session, default=None)
        if client is not None:
            client.answer(text)
            self._post(Answered(tunnel, client.session))

    def terminate(self, tunnel: str, session: int, leave: bool = False) -> None:
        """SIGTERM to the client's process group, after a word if it shall `leave` for good. `Exited`
        follows when the tree is gone.
        """
        client = self._clients.get((tunnel, session))
        if leave and client is not None:
            client.tell(client.kind.leave)
        self._signal(tunnel, session, signal.SIGTERM)

    def kill(self, tunnel: str, session: int) -> None:
        """SIGKILL to the client's process group; what has left the group follows as soon as the main
        process is dead.
        """
        self._signal(tunnel, session, signal.SIGKILL)

    def _signal(self, tunnel: str, session: int, number: signal.Signals) -> None:
        client = self._clients.get((tunnel, session))
        if client is not None:
            client.send_signal(number)
        elif self._waiting.pop((tunnel, session), None) is not None:
            self._post(Exited(tunnel, session, signal=number))

    def _of(self, tunnel: str) -> list[Client]:
        return [client for (name, _), client in self._clients.items() if name == tunnel]

    # --- questions
    # ------------------------------------------------------------------------------------------------------

    @property
    def kept(self) -> dict[str, str]:
        """Secrets that spare the next login, by slot."""
        return {place: secret for place, secret in self._kept.items() if secret}

    @property
    def busy(self) -> bool:
        """Clients that were ordered have not been started yet."""
        return bool(self._waiting)

    def tail(self, tunnel: str, count: int) -> list[str]:
        """The last lines that the tunnel's clients said, secrets masked, oldest first; at most 200."""
        return self._logs[tunnel].tail(count) if tunnel in self._logs else []

    def follow(self, tunnel: str) -> AsyncIterator[str]:
        """Lines as the tunnel's clients say them, over all sessions, until the runner is closed."""
        return self._log(tunnel).follow()

    def is_client(self, pid: int) -> bool:
        """The process is a client, belongs to one, or is at least a descendant of ours."""
        one, ours = processes.traces(pid), os.getpid()
        if one is None or pid == ours:
            return False
        return ours in one.lineage or any(client.family.includes(one) for client in self._clients.values())

    def usage(self, tunnel: str, session: int) -> ResourceUsage | None:
        """What the client's process tree costs now; None: it does not run. Safe in any thread."""
        client = self._clients.get((tunnel, session))
        return None if client is None or client.reaped else usage_of(client.family.pid)

    # --- the beginning of a client
    # -----------------------------------------------------------------------------------------

    def _spawn_next(self) -> None:
        if not self._waiting:
            return
        order = self._waiting.pop(next(iter(self._waiting)))
        name, session = order.tunnel.name, order.session
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._spawn_next)
        try:
            with launching.own_fault("the client could not be started"):
                event = self._spawn(order)
        except SpawnError as error:
            event = SpawnFailed(name, session, error.reason, error.text)
        self._post(event)

    def _spawn(self, order: Order) -> Event:
        tunnel, session = order.tunnel, order.session
        if any(client.place == order.place for client in self._clients.values()):
            raise SpawnError(Reason.LOCAL, "the previous client has not ended")
        prepared = self._prepare(order)
        id, key = uuid.uuid4().hex, secrets.token_hex(16) if prepared.asks_key else ""
        with local_trouble():
            client = self._run(prepared, id, key)
        self._clients[order.key] = client
        asyncio.get_running_loop().add_reader(client.pidfd, self._on_end, tunnel.name, client)
        device, port = self._carried(prepared)
        self._write_down(tunnel.name, client, prepared, device, port, key)
        return Spawned(tunnel.name, session, client.family.pid, id, device, port)

    def _inputs(self, tunnel: Tunnel, kind: AnyKind, place: str) -> dict[str, bytes]:
        inputs = launching.read_inputs(kind, tunnel, self._read_inputs)
        if place in self._kept:
            inputs["kept"] = self._kept[place].encode()
        return inputs

    def _prepare(self, order: Order) -> Prepared:
        tunnel = order.tunnel
        kind = self._kinds[tunnel.kind]
        if not order.resume:
            self._kept.pop(order.place, None)
        inputs = self._inputs(tunnel, kind, order.place)
        launching.require(kind.binaries)
        with local_trouble():
            port = self._ports.pick() if kind.carrier is Carrier.PROXY else 0
        directory, mark = (
            self._directory / "clients" / order.place,
            self._lane_of(tunnel.name, order.slot) or 0,
        )
        launching.prepare_directory(directory)
        user = self._user(kind, directory)
        given = None if user is None else (user.uid, user.gid)
        place = Placement(
            directory, device_name(tunnel, order.slot), port, sys.executable, order.remote, mark, given
        )
        try:
            launch = kind.launch(tunnel, place, inputs)
        except ValueError as error:
            raise SpawnError(Reason.CLIENT_CONFIG, str(error)) from error
        launching.require(launch.argv[:1])
        sandbox = boundary(launch, directory, self._private, user)
        return Prepared(
            order.slot, place, launch, self._voice(tunnel, order.session, order.place, inputs), kind, sandbox
        )

    def _user(self, kind: AnyKind, directory: Path) -> User | None:
        try:
            with local_trouble():
                return self._users.pick(directory) if kind.gives_up_root else None
        except LookupError as error:
            raise SpawnError(Reason.MISSING_RIGHT, str(error)) from error

    def _voice(self, tunnel: Tunnel, session: int, place: str, inputs: Mapping[str, bytes]) -> Voice:
        kind = self._kinds[tunnel.kind]
        try:
            dialogue = kind.dialogue(tunnel, inputs)
        except ValueError as error:
            raise SpawnError(Reason.CLIENT_CONFIG, str(error)) from error
        secrets = [
            inputs[item.name]
            for item in (*inputs_of(kind, tunnel), *kind.companions(tunnel, inputs))
            if item.secret
        ]
        masker = Masker([*secrets, inputs["kept"]] if "kept" in inputs else secrets)
        questions = Questions(tunnel.name, session, inputs.get("totp"), self._codes, self._post, self._give)
        keep = functools.partial(self._keep, tunnel.name, session, place, masker)
        return Voice(
            tunnel.name, session, dialogue, masker, self._log(tunnel.name), self._post, keep, questions.ask
        )

    def _keep(self, tunnel: str, session: int, place: str, masker: Masker, secret: str) -> None:
        masker.add(secret.encode())
        self._kept[place] = secret
        self._post(Kept(tunnel, session, bool(secret)))

    def _give(self, tunnel: str, session: int, text: str) -> None:
        client = self._clients.get((tunnel, session))
        if client is not None:
            client.answer(text)

    def _run(self, prepared: Prepared, id: str, key: str) -> Client:
        """Start the process and everything that listens to it; nothing is left behind when that fails."""
        directory, launch = prepared.place.directory, prepared.launch
        launching.prepare_directory(directory, launch)
        carried = tag(self._directory, prepared.voice.tunnel, id)
        with contextlib.ExitStack() as undo:
            notify = NotifySocket(directory / "notify.sock") if launch.notify else None
            if notify is not None:
                undo.callback(notify.close)
            fd = output.open_for_client(directory)
            try:
                offset = os.fstat(fd).st_size
                told = None if notify is None else notify.path
                pid = launching.start(launch, directory, carried, fd, told, sandbox=prepared.sandbox, key=key)
            finally:
                os.close(fd)
            self._reaper.add(pid)
            undo.callback(self._undo_start, pid)
            family = ProcessTree(pid, carried)
            client = Client(
                family, id, prepared.voice, self._desk, directory, offset, prepared.kind, os.pidfd_open(pid)
            )
            undo.callback(lambda: self._in_background(client.close()))
            client.attach(launch.management, key, notify)
            undo.pop_all()
        return client

    def _undo_start(self, pid: int) -> None:
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._reaper.discard(pid)

    @staticmethod
    def _carried(prepared: Prepared) -> tuple[str | None, int | None]:
        if prepared.kind.carrier is Carrier.DEVICE:
            return prepared.place.device, None
        return None, prepared.place.port

    def _write_down(
        self, tunnel: str, client: Client, prepared: Prepared, device: str | None, port: int | None, key: str
    ) -> None:
        known = processes.stat_of_new(client.family.pid)
        management = prepared.launch.management
        entry = JournalEntry(
            tunnel=tunnel,
            session=client.session,
            id=client.id,
            pid=client.family.pid,
            start=known.start if known else 0,
            boot=self._boot,
            device=device,
            port=port,
            lane=prepared.place.mark or None,
            slot=prepared.slot,
            management=None if management is None else str(management),
            kind=prepared.kind.name,
            notify=prepared.launch.notify,
            key=key,
        )
        try:
            self._journal.update(entry)
        except (
            OSError
        ) as error:  # a full disk is no reason to run without tunnels; the tag still finds the process
            self._log(tunnel).note(f"the journal cannot be written: {error.strerror}")

    # --- the end of a client
    # -----------------------------------------------------------------------------------------------

    def _on_end(self, tunnel: str, client: Client) -> None:
        asyncio.get_running_loop().remove_reader(client.pidfd)
        client.reap()
        self._reaper.discard(client.family.pid)
        task = self._in_background(self._finish(tunnel, client))
        task.add_done_callback(functools.partial(self._gone, tunnel, client))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    async def _finish(self, tunnel: str, client: Client) -> None:
        end = self._reaper.end if client.family.child else end_strangers
        if not await end(client.family, LEFTOVERS_WITHIN):
            self._log(tunnel).note(
                "a process of the client could not be ended: it hangs in the kernel or belongs to another "
                "user"
            )
        await client.drain(DRAIN_WITHIN)

    def _gone(self, tunnel: str, client: Client, task: asyncio.Task[None]) -> None:
        """Whatever happened on the way, the engine must learn that the client is gone."""
        code, number = client.bury()
        if task.cancelled():  # the runner was closed
            return
        if (error := task.exception()) is not None:
            self._log(tunnel).note(f"trouble after the client's end: {type(error).__name__}: {error}")
        del self._clients[tunnel, client.session]
        try:
            self._journal.remove(client.place)
        except OSError as trouble:
            self._log(tunnel).note(f"the journal cannot be written: {trouble.strerror}")
        self._post(Exited(tunnel, client.session, code, number))

    def _log(self, tunnel: str) -> Log:
        if tunnel not in self._logs:
            self._logs[tunnel] = Log(lambda text: self._on_line(tunnel, text))
        return self._logs[tunnel]
