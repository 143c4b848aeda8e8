"""Orphans: processes that a client's main process leaves behind become children of the daemon (a subreaper),
are assigned to their client, killed and reaped.

Clients run in process sessions of their own (setsid(2)), so every child of ours in another session is a
client or an orphan of one. Children in our own session belong to other parts of the daemon and are never
touched, so nothing else in the daemon may start a child in a new session. Nobody calls waitpid(-1), so the
pid of a child cannot be reused before we reap it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass, field

from supervisor.clients import processes


@dataclass(slots=True)
class ProcessTree:
    """The processes of one client, and how to recognise its orphans."""

    pid: int  # main process; its session has the same number
    tag: str
    child: bool = True  # of this daemon; False: adopted, and the child of another process
    seen: dict[int, int] = field(default_factory=dict)  # pid -> start time of descendants seen before the end
    uid: int | None = None  # a user that nothing else on this host has

    def look(self) -> None:
        """Record the descendants while they can still be found through their parents."""
        for pid in processes.descendants(self.pid):
            if (known := processes.stat(pid)) is not None:
                self.seen[pid] = known.start

    def includes(self, one: processes.Traces) -> bool:
        """The process belongs to the client."""
        return self.pid in one.lineage or self.owns(one.pid, one.stat, one.tag)

    def owns(self, pid: int, known: processes.Stat, tag: str | None) -> bool:
        """The orphan belongs to the client."""
        if tag == self.tag or known.session == self.pid or self.seen.get(pid) == known.start:
            return True
        return self.uid is not None and processes.user_of(pid) == self.uid


class Reaper:
    """Watches for orphans of all clients. Needs the main thread, because it handles SIGCHLD."""

    def __init__(self) -> None:
        self._mains: set[int] = set()
        self._tags: dict[int, str | None] = {}
        self._ended = asyncio.Event()
        self._session = os.getsid(0)

    def start(self) -> None:
        """Become the parent of all orphans, and handle SIGCHLD."""
        processes.become_subreaper()
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._some_child_ended)

    def close(self) -> None:
        """Handle SIGCHLD no more."""
        asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)

    def add(self, main: int) -> None:
        """Note a client's main process, which its owner reaps."""
        self._mains.add(main)

    def discard(self, main: int) -> None:
        """Forget a main process that was reaped."""
        self._mains.discard(main)

    def orphans(self) -> dict[int, processes.Stat]:
        """Living orphans of all clients; dead ones are reaped on the way."""
        found = {}
        for pid in processes.children(os.getpid()) - self._mains:
            known = processes.stat(pid)
            if known is None or known.session == self._session:
                continue
            if not _reap(pid):
                found[pid] = known
        self._tags = {pid: tag for pid, tag in self._tags.items() if pid in found}
        return found

    async def end(self, tree: ProcessTree, within: float) -> bool:
        """Kill and reap what is left of a client whose main process ended; False: something still lives after
        `within` seconds.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while left := self._left(tree):
                    _kill(left)  # their children become ours and are found in the next round
                    await self._ended.wait()
                return True
        return False

    def _left(self, tree: ProcessTree) -> list[int]:
        self._ended.clear()
        return [pid for pid, known in self.orphans().items() if tree.owns(pid, known, self._tag(pid))]

    def _tag(self, pid: int) -> str | None:
        if pid not in self._tags:
            self._tags[pid] = processes.tag_of(pid)
        return self._tags[pid]

    def _some_child_ended(self) -> None:
        self.orphans()
        self._ended.set()


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(PermissionError):  # of another user
            os.kill(pid, signal.SIGKILL)


def _reap(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None
    except ChildProcessError:
        return True
