"""Runs the clients: the engine's `ClientRunner` (`supervisor.outputs`). Orders come in, and their outcome is
posted as events.

    spawn -> Spawner -> Client (output, management, notifications -> dialogue -> ClientSaid)
          -> its end, signalled by a pidfd -> leftovers are killed and reaped -> its last lines are read ->
          Exited

At any time there is at most one process tree per slot of a tunnel.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from supervisor.clients import processes
from supervisor.clients.adoption import FoundClient
from supervisor.clients.client import Client
from supervisor.clients.launch import SpawnError
from supervisor.clients.line_handlers import LineHandlers
from supervisor.clients.local_addresses import local_addresses
from supervisor.clients.log import Log
from supervisor.clients.orders import Key, Order
from supervisor.clients.process_journal import Journal, JournalEntry
from supervisor.clients.reaper import Reaper
from supervisor.clients.spawner import ClientSources, Spawner
from supervisor.clients.sweep import end_strangers
from supervisor.clients.totp import Codes
from supervisor.clients.usage import ResourceUsage, usage_of
from supervisor.core.events import Answered, Event, Exited, Spawned, SpawnFailed
from tunnels.base import Reason, Tunnel
from tunnels.networks import IPAddress

# to kill what a client left behind; only a process that hangs in the kernel takes so long
LEFTOVERS_SECONDS = 5.0
DRAIN_SECONDS = 0.4  # to read the last lines of a client that has ended


def _ignore(tunnel: str, text: str) -> None:
    """Nobody reads the lines."""


class Runner:
    """Starts, watches and ends clients. Everything happens on the event loop of the main thread."""

    def __init__(
        self,
        runtime_dir: Path,
        sources: ClientSources,
        post: Callable[[Event], None],
        *,
        on_line: Callable[[str, str], None] = _ignore,
        codes: Codes | None = None,
        kept: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`on_line(tunnel, text)` gets the clients' lines, rate limited. `kept`: secrets that spare the next
        login, by slot name, as an earlier `Runner` had them.
        """
        directory = runtime_dir.resolve()
        self._post = post
        codes = codes or Codes(directory / "codes.json")
        self._handlers = LineHandlers(post, codes, kept, on_line, self._answer)
        self._journal, self._reaper = Journal(directory), Reaper()
        self._spawner = Spawner(directory, sources, self._handlers, self._reaper, self._in_background)
        self._clients: dict[Key, Client] = {}
        self._waiting: dict[Key, Order] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin; before the first `spawn`, on the running loop, and after leftovers of an earlier daemon were
        swept.
        """
        self._spawner.start()
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
        self._handlers.close()
        await self._spawner.close()

    # --- orders
    # ------------------------------------------------------------------------------------------------------

    def adopt(self, tunnel: Tunnel, found: FoundClient, *, starting: bool) -> None:
        """Go on with the client of an earlier daemon, after `start`. `starting`: it is not connected yet.

        SpawnError: it cannot be adopted, because something that it has said may be lost.
        """
        client = self._spawner.adopt(tunnel, found, starting=starting)
        self._watch(tunnel.name, client)

    def spawn(
        self, tunnel: Tunnel, session: int, resume: bool = False, remote: int = 0, slot: int = 0
    ) -> None:
        """Start the client of this session: `Spawned` or `SpawnFailed` follows. One client is started in each
        turn of the loop.
        """
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._spawn_next)
        order = Order(tunnel, session, resume, remote, slot)
        self._waiting[order.key] = order

    def renew(self, tunnel: str, session: int) -> None:
        """Make the client reconnect without ending."""
        client = self._clients.get((tunnel, session))
        if client is not None:
            client.tell(client.kind.renew)

    def ask_sign_of_life(self, tunnel: str, session: int) -> None:
        """Make the client say whether the protocol shows that the remote gateway lives."""
        client = self._clients.get((tunnel, session))
        if client is not None:
            client.tell(client.kind.ask_sign_of_life)

    def answer(self, tunnel: str, text: str) -> None:
        """Answer the latest question of the tunnel's client; `Answered` follows."""
        clients = [client for (name, _), client in self._clients.items() if name == tunnel]
        client = max(clients, key=lambda each: each.session, default=None)
        if client is not None:
            client.answer(text)
            self._post(Answered(tunnel, client.session))

    def terminate(self, tunnel: str, session: int, leave: bool = False) -> None:
        """SIGTERM to the client's process group. `leave`: no session follows, so the client is told to log
        out before. `Exited` follows when the whole process tree is gone.
        """
        client = self._clients.get((tunnel, session))
        if leave and client is not None:
            client.tell(client.kind.logout)
        self._signal(tunnel, session, signal.SIGTERM)

    def kill(self, tunnel: str, session: int) -> None:
        """SIGKILL to the client's process group; processes that left the group are killed when the main
        process is dead.
        """
        self._signal(tunnel, session, signal.SIGKILL)

    def _signal(self, tunnel: str, session: int, number: signal.Signals) -> None:
        client = self._clients.get((tunnel, session))
        if client is not None:
            client.send_signal(number)
        elif self._waiting.pop((tunnel, session), None) is not None:
            self._post(Exited(tunnel, session, signal=number))

    def _answer(self, tunnel: str, session: int, text: str) -> None:
        client = self._clients.get((tunnel, session))
        if client is not None:
            client.answer(text)

    # --- questions
    # ------------------------------------------------------------------------------------------------------

    @property
    def kept(self) -> dict[str, str]:
        """Secrets that spare the next login, by slot name."""
        return self._handlers.kept

    @property
    def busy(self) -> bool:
        """Some ordered clients have not been started yet."""
        return bool(self._waiting)

    @property
    def running(self) -> tuple[Key, ...]:
        """Tunnel and session of each client whose end was not posted yet."""
        return tuple(self._clients)

    @property
    def reaper(self) -> Reaper:
        """Whoever starts another child in a session of its own tells it."""
        return self._reaper

    def log(self, tunnel: str) -> Log:
        """The log of the tunnel's clients."""
        return self._handlers.log(tunnel)

    def tail(self, tunnel: str, count: int) -> list[str]:
        """The last lines of the tunnel's clients, secrets masked, oldest first; at most 200."""
        return self._handlers.tail(tunnel, count)

    def follow(self, tunnel: str) -> AsyncIterator[str]:
        """Lines of the tunnel's clients as they come, over all sessions, until the runner is closed."""
        return self._handlers.follow(tunnel)

    def is_client(self, pid: int) -> bool:
        """The process is a client, belongs to one, or is at least a descendant of the daemon."""
        one, ours = processes.traces(pid), os.getpid()
        if one is None or pid == ours:
            return False
        return ours in one.lineage or any(client.tree.includes(one) for client in self._clients.values())

    def usage(self, tunnel: str, session: int) -> ResourceUsage | None:
        """CPU and memory of the client's process tree; None: it does not run. Safe in any thread."""
        client = self._clients.get((tunnel, session))
        return None if client is None or client.reaped else usage_of(client.tree.pid)

    def local_addresses(self, tunnel: str, session: int) -> frozenset[IPAddress]:
        """The addresses of this host from which its connections come. Safe in any thread."""
        client = self._clients.get((tunnel, session))
        return frozenset() if client is None or client.reaped else local_addresses(client.tree.pid)

    # --- the start of a client
    # ------------------------------------------------------------------------------------------------------

    def _spawn_next(self) -> None:
        if not self._waiting:
            return
        order = self._waiting.pop(next(iter(self._waiting)))
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._spawn_next)
        try:
            event = self._spawn(order)
        except SpawnError as error:
            event = SpawnFailed(order.tunnel.name, order.session, error.reason, error.text)
        self._post(event)

    def _spawn(self, order: Order) -> Event:
        if any(client.place == order.place for client in self._clients.values()):
            raise SpawnError(Reason.LOCAL, "the previous client has not ended")
        client, entry = self._spawner.spawn(order)
        self._watch(entry.tunnel, client)
        self._write_down(entry)
        return Spawned(entry.tunnel, entry.session, entry.pid, entry.id, entry.device, entry.port)

    def _watch(self, tunnel: str, client: Client) -> None:
        self._clients[tunnel, client.session] = client
        asyncio.get_running_loop().add_reader(client.pidfd, self._on_end, tunnel, client)

    def _write_down(self, entry: JournalEntry) -> None:
        try:
            self._journal.update(entry)
        # no reason to run without tunnels on a full disk: the tag still finds the process
        except OSError as error:
            self._note(entry.tunnel, f"the journal cannot be written: {error.strerror}")

    def _note(self, tunnel: str, text: str) -> None:
        self._handlers.log(tunnel).note(text)

    # --- the end of a client
    # ------------------------------------------------------------------------------------------------------

    def _on_end(self, tunnel: str, client: Client) -> None:
        asyncio.get_running_loop().remove_reader(client.pidfd)
        client.reap()
        self._reaper.discard(client.tree.pid)
        task = self._in_background(self._finish(tunnel, client))
        task.add_done_callback(functools.partial(self._gone, tunnel, client))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    async def _finish(self, tunnel: str, client: Client) -> None:
        end = self._reaper.end if client.tree.child else end_strangers
        if not await end(client.tree, LEFTOVERS_SECONDS):
            text = "a process of the client could not be ended: it hangs in the kernel or belongs to another user"
            self._note(tunnel, text)
        await client.drain(DRAIN_SECONDS)

    def _gone(self, tunnel: str, client: Client, task: asyncio.Task[None]) -> None:
        """Post `Exited` in any case: without it the engine would wait for ever."""
        code, number = client.exit_status()
        if task.cancelled():  # the runner was closed
            return
        if (error := task.exception()) is not None:
            self._note(tunnel, f"trouble after the client's end: {type(error).__name__}: {error}")
        del self._clients[tunnel, client.session]
        try:
            self._journal.remove(client.place)
        except OSError as trouble:
            self._note(tunnel, f"the journal cannot be written: {trouble.strerror}")
        self._post(Exited(tunnel, client.session, code, number, client.last_words))
