"""One run of a hook: a process of an unprivileged user in its own session, with limits, and its output."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from supervisor.clients import processes
from supervisor.clients.launch import PATH
from supervisor.clients.lines import LineSplitter
from supervisor.clients.reaper import ProcessTree, Reaper
from supervisor.clients.sandbox import Sandbox, confined, open_beside
from supervisor.clients.users import User

MAX_LINES = 50  # of one run that are shown
MAX_LINE_BYTES = 1000
FREE_BYTES = 1 << 16  # of output that are read as they come; what follows is read slowly and dropped
CHUNK_BYTES = 1 << 18  # read at once, and the size of the pipe
PAUSE_SECONDS = 0.02  # between two chunks then
LEFTOVERS_SECONDS = 5.0  # to kill what the hook left behind
NICENESS = 10
_SET_IDS = frozenset({6, 7})  # CAP_SETGID and CAP_SETUID, which the change of user takes
# prlimit(1): no core, 1 GiB of memory, files of at most 100 MiB
_LIMITS = ("prlimit", "--core=0", f"--data={1 << 30}", f"--fsize={100 << 20}", "--nofile=1024")
_MOST_PROCESSES = 128  # of a user that only this hook has


class HookOutput:
    """The output of a hook, read from a pipe: the first lines are shown, the last one is kept, all else is
    dropped.
    """

    def __init__(self, fd: int, show: Callable[[Sequence[str]], None]) -> None:
        self._fd, self._show = fd, show
        self._splitter = LineSplitter(MAX_LINE_BYTES)
        self._loop = asyncio.get_running_loop()
        self._shown = self._dropped = self._size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._open = True
        self.last = ""  # the last line that says anything
        self._loop.add_reader(fd, self._read)

    def close(self) -> None:
        """Read what is there, and no more."""
        if self._open and self._size <= FREE_BYTES:
            self._read()
        self._end()

    def _read(self) -> None:
        try:
            data = os.read(self._fd, CHUNK_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._end()
            return
        self._size += len(data)
        self._take(self._splitter.feed(data[-FREE_BYTES:]))
        if self._size > FREE_BYTES:
            self._loop.remove_reader(self._fd)
            self._timer = self._loop.call_later(PAUSE_SECONDS, self._go_on)

    def _go_on(self) -> None:
        self._timer = None
        self._loop.add_reader(self._fd, self._read)

    def _take(self, lines: Sequence[str]) -> None:
        said = [line for line in lines if line.strip()]
        room = MAX_LINES - self._shown
        self._shown += len(said[:room])
        self._dropped += len(said[room:])
        self.last = said[-1] if said else self.last
        if said[:room]:
            self._show(said[:room])

    def _end(self) -> None:
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._fd)
        if self._timer is not None:
            self._timer.cancel()
        os.close(self._fd)
        self._take(self._splitter.flush())
        if self._dropped:
            self._show([f"(further output is left out; in all it was {self._size} bytes)"])


def start(
    argv: Sequence[str], environment: Mapping[str, str], tag: str, user: User | None, private: Sequence[Path]
) -> tuple[int, int]:
    """Start a hook: its pid, and the descriptor from which its output is read. OSError: it cannot be started.

    The caller tells the reaper of the pid before the loop goes on, and waits for it.
    """
    own = user is not None and user.accounts is not None
    limits = (*_LIMITS, f"--nproc={_MOST_PROCESSES}") if own else _LIMITS
    ids = () if user is None else (f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups")
    drop = ("setpriv", *ids, "--no-new-privs", "--inh-caps=-all", "--ambient-caps=-all", "--")
    read, write = os.pipe2(os.O_CLOEXEC)
    with contextlib.ExitStack() as failed:
        failed.callback(os.close, read)
        os.set_blocking(read, False)
        with contextlib.suppress(OSError):  # it is smaller then
            fcntl.fcntl(read, fcntl.F_SETPIPE_SZ, CHUNK_BYTES)
        try:
            process = confined(
                Sandbox(tuple(open_beside(argv[0], private)), _SET_IDS, user),
                lambda: subprocess.Popen(
                    [*limits, "--", *drop, *argv],
                    stdin=subprocess.DEVNULL,
                    stdout=write,
                    stderr=write,
                    cwd="/",
                    env={"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/", **environment, processes.TAG: tag},
                    start_new_session=True,
                ),
            )
        finally:
            os.close(write)
        failed.pop_all()
    process.returncode = 0  # keep Popen from waiting for the process
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
    return process.pid, read


async def ended(pid: int, pidfd: int, tree: ProcessTree, reaper: Reaper, within: float) -> int | None:
    """Wait for the hook's end, and kill it and all that it started: its exit status as in subprocess (minus
    the number of a signal); None: it had to be killed after `within` seconds.
    """
    in_time = False
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await processes.ended(pidfd)
                in_time = True
    finally:
        tree.look()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            processes.signal_group(pidfd, pid, signal.SIGKILL)
        await processes.ended(pidfd)
        status = _reaped(pid)
        reaper.discard(pid)
        await reaper.end(tree, LEFTOVERS_SECONDS)
    return os.waitstatus_to_exitcode(status) if in_time else None


def _reaped(pid: int) -> int:
    """The status of a process that has ended, as in wait(2)."""
    return os.waitpid(pid, 0)[1]
