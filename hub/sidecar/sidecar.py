"""One sidecar beside one OpenVPN server: connects the state machine with sockets, the journal and time.

OpenVPN does not need it to go on: when it ends, or is killed, sessions stay, and the next one knows them.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import structlog

from hub.config.sidecar import SidecarSettings
from hub.core import api
from hub.core.openvpn import commands
from hub.core.openvpn.clients import client_rows
from hub.core.openvpn.messages import AddressMessage, ClientMessage, HoldMessage
from hub.core.sidecar.answers import unknown_client
from hub.core.sidecar.clients import (
    AskAnswer,
    AskLogin,
    ClientPhase,
    CutLater,
    Effect,
    Forget,
    Note,
    Remember,
    ReportEnd,
    ReportUp,
    Send,
    StopLater,
)
from hub.core.sidecar.journal import JournalContent, ServerRun, client_line, drain_line, gone_line, run_line
from hub.core.sidecar.machine import NodeDrain, SidecarMachine
from hub.sidecar.journal_file import JournalFile
from hub.sidecar.logins import LoginAsker
from hub.sidecar.management import ServerConnection, ServerEvent, connect
from hub.sidecar.outbox import ReportOutbox
from hub.sidecar.service import ServiceLink

_CONNECT_SECONDS = 0.1  # between two tries to reach the management socket
_NOT_UP = (ClientPhase.WAITING, ClientPhase.ALLOWED)


class Sidecar:
    """Used from the loop only."""

    def __init__(
        self, settings: SidecarSettings, node: str, service: ServiceLink, journal: JournalFile
    ) -> None:
        """`node`: the name by which the service knows this server. OSError: the journal cannot be written."""
        self._settings, self._node, self._journal = settings, node, journal
        self.log = structlog.get_logger()
        found = journal.load()
        self.run_of_server = found.run
        self.machine = SidecarMachine(found.clients.values(), found.drain)
        self.outbox = ReportOutbox(node, service, self._remember, self._report_refused, found.unsent.values())
        self.asker = LoginAsker(node, service, settings.login_patience)
        self.version = ""
        self._decided: frozenset[str] = frozenset()  # by the latest heartbeat's answer
        self._counters: dict[str, tuple[int, int]] = {}
        self.ready = asyncio.Event()  # it knows the server's clients and decides logins
        self._connection: ServerConnection | None = None
        self._early: list[ServerEvent] | None = []  # events that came before the server's run was known
        self._tasks: set[asyncio.Task[None]] = set()
        self._deadline: asyncio.TimerHandle | None = None

    # --- the connection to the server ---

    async def run(self) -> None:
        """For ever: connect, serve until the connection ends, and again."""
        while True:
            try:
                connection = await connect(self._settings.management, self._event)
            except OSError:  # no server, or another client of its socket: nobody can log in meanwhile
                await asyncio.sleep(_CONNECT_SECONDS)
                continue
            await self._serve(connection)

    async def _serve(self, connection: ServerConnection) -> None:
        self._connection, self._early = connection, []
        # Before the reply comes the greeting, and with it HOLD from a server that has just started.
        connection.command(commands.PID, self._greeted)
        connection.command(commands.VERSION, self._versioned)
        try:
            await connection.listen()
        finally:
            self._connection = None
            self.ready.clear()
            connection.close()
            self.log.info("the connection to OpenVPN has ended")

    def _event(self, event: ServerEvent) -> None:
        if self._early is not None:
            self._early.append(event)
            return
        match event:
            case ClientMessage():
                self._perform(self.machine.client(event))
            case AddressMessage():
                self._perform(self.machine.address(event))
            case HoldMessage():  # it has restarted in the same process (SIGHUP, SIGUSR1)
                run = self.run_of_server
                self._begin(run.pid if run is not None else 0)

    def _greeted(self, reply: Sequence[str]) -> None:
        pid = _pid(reply)
        early, self._early = self._early or [], None
        if any(isinstance(event, HoldMessage) for event in early):
            self._begin(pid)
            return
        if self.run_of_server is None or self.run_of_server.pid != pid:
            self._new_run(pid)
        for event in early:
            self._event(event)
        self._tell(commands.STATUS, self._listed)

    def _begin(self, pid: int) -> None:
        """The server waits: it has no clients. What it calls its clients from now on means others."""
        self._new_run(pid)
        self._tell(commands.RELEASE)
        self.ready.set()

    def _new_run(self, pid: int) -> None:
        self.run_of_server = ServerRun(secrets.token_hex(8), pid)
        self.machine = SidecarMachine()
        self._stop_deadline()
        self._remember(run_line(self.run_of_server))

    def _listed(self, reply: Sequence[str]) -> None:
        rows = list(client_rows(reply))
        self._perform(self.machine.reconcile(rows))
        self._set_deadline()
        self.ready.set()
        self.log.info("the server's clients are known", clients=len(rows))

    def _versioned(self, reply: Sequence[str]) -> None:
        first = next((line for line in reply if line.startswith("OpenVPN Version:")), "")
        self.version = " ".join(first.split()[2:4])

    # --- what others want ---

    def count(self) -> None:
        """Ask the server for the bytes of each session; a later heartbeat tells them."""
        if self.ready.is_set():
            self._tell(commands.STATUS, self._counted)

    def _counted(self, reply: Sequence[str]) -> None:
        for row in client_rows(reply):
            known = self.machine.clients.get(row.cid)
            if known is not None and known.phase is ClientPhase.UP and known.session:
                self._counters[known.session] = (row.received, row.sent)

    def _take_counters(self) -> dict[str, tuple[int, int]]:
        counters, self._counters = self._counters, {}
        return counters

    def heartbeat(self, wait: float) -> tuple[api.Heartbeat, list[int]] | None:
        """What to send now, and the unknown clients that it names; None: the server is not known."""
        if self.run_of_server is None or not self.ready.is_set():
            return None
        clients = self.machine.clients.values()
        unknown = [client for client in clients if client.phase is ClientPhase.UNKNOWN]
        beat = api.Heartbeat(
            node=self._node,
            boot=self.run_of_server.id,
            sequence=self.asker.sequence,
            sessions=tuple(client.session for client in clients if client.session),
            waiting=frozenset(
                client.session for client in clients if client.session and client.phase in _NOT_UP
            ),
            ending=frozenset(client.session for client in clients if client.session and client.ending)
            | self._decided,
            unknown=tuple(map(unknown_client, unknown)),
            bytes=self._take_counters(),
            draining=self.machine.drain is not None,
            version=self.version,
            wait=wait,
        )
        return beat, [each.cid for each in unknown]

    def take_orders(self, boot: str, asked: Sequence[int], answer: api.HeartbeatAnswer) -> None:
        """The answer to a heartbeat of this run of the server."""
        if self.run_of_server is not None and self.run_of_server.id == boot:
            # Told once more that we act on these decisions: then the service does not repeat them.
            self._decided = self.machine.acts_on(answer)
            self._perform(self.machine.orders(asked, answer))

    def begin_drain(self, timeout: float | None) -> int:
        """No new logins; the number of clients that are still there. ValueError: no server runs."""
        if not self.ready.is_set():
            raise ValueError("OpenVPN does not run, or does not answer")
        drain = NodeDrain(None if timeout is None else time.time() + timeout)
        self._remember(drain_line(drain))
        self._perform(self.machine.begin_drain(drain))
        self._set_deadline()
        return len(self.machine.clients)

    def end_person(self, person: str) -> int:
        """End a person's sessions on this server, whatever the service thinks; how many there were."""
        count = sum(client.person == person for client in self.machine.clients.values())
        self._perform(self.machine.end_person(person))
        return count

    # --- effects ---

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            self._do(effect)

    def _do(self, effect: Effect) -> None:
        run = self.run_of_server.id if self.run_of_server is not None else ""
        match effect:
            case Send(command):
                self._tell(command)
            case AskLogin():
                self._start(self._ask(self.machine, effect, self.asker.login(run, effect)))
            case AskAnswer():
                self._start(self._ask(self.machine, effect, self.asker.answer(run, effect)))
            case ReportUp() | ReportEnd():
                self.outbox.put(run, effect)
            case CutLater() | StopLater():
                self._later(effect)
            case Remember() | Forget():
                self._remember_client(effect)
            case Note(what, fields):
                self.log.info(what, **fields)

    def _later(self, effect: CutLater | StopLater) -> None:
        machine = self.machine

        def effects() -> Iterable[Effect]:
            if isinstance(effect, CutLater):
                return machine.cut(effect.cid, effect.session)
            return (Send(commands.STOP),)

        loop = asyncio.get_running_loop()
        loop.call_later(effect.seconds, lambda: self._if_same(machine, effects))

    def _remember_client(self, effect: Remember | Forget) -> None:
        if isinstance(effect, Forget):
            self._remember(gone_line(effect.cid))
        elif effect.client.session:
            self._remember(client_line(effect.client))

    def _if_same(self, machine: SidecarMachine, effects: Callable[[], Iterable[Effect]]) -> None:
        """Time has passed: the server may have restarted."""
        if machine is self.machine:
            self._perform(effects())

    async def _ask(
        self,
        machine: SidecarMachine,
        question: AskLogin | AskAnswer,
        asked: Coroutine[Any, Any, api.LoginAnswer | None],
    ) -> None:
        since = time.monotonic()
        answer = await asked
        cid, kid = question.cid, question.kid
        milliseconds = round((time.monotonic() - since) * 1000, 1)
        self.log.info("asked", cid=cid, kid=kid, answered=answer is not None, milliseconds=milliseconds)
        effects = machine.unanswered(cid, kid) if answer is None else machine.decided(cid, kid, answer)
        if machine is self.machine:
            self._perform(effects)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tell(self, command: str, then: Callable[[Sequence[str]], None] | None = None) -> None:
        if self._connection is not None:  # else the next connection begins with a look at all clients
            self._connection.command(command, then)

    def _remember(self, line: str) -> None:
        self._journal.append(line)
        if self._journal.full:
            self._journal.rewrite(self._content())

    def _content(self) -> JournalContent:
        kept = {cid: client for cid, client in self.machine.clients.items() if client.session}
        return JournalContent(self.run_of_server, kept, self.machine.drain, self.outbox.unsent)

    def _report_refused(self, why: str) -> None:
        self.log.error("the session service refused a report", why=why)

    # --- the deadline of a drain ---

    def _set_deadline(self) -> None:
        self._stop_deadline()
        drain = self.machine.drain
        if drain is not None and drain.deadline is not None:
            seconds = max(0.0, drain.deadline - time.time())
            machine = self.machine
            self._deadline = asyncio.get_running_loop().call_later(
                seconds, lambda: self._if_same(machine, machine.drain_is_over)
            )

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    async def close(self) -> None:
        """Questions that have no answer yet are given up: who waits logs in again at the next sidecar."""
        self._stop_deadline()
        for task in list(self._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._connection is not None:
            self._connection.close()
        self._journal.close()


def _pid(reply: Sequence[str]) -> int:
    """From `SUCCESS: pid=NUMBER`; 0: it cannot be read."""
    digits = reply[0].rpartition("=")[2].strip() if reply else ""
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 12 else 0
