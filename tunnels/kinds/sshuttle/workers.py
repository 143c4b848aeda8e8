"""Several workers behind one port: forks them, tells the daemon when the first one is ready, and restarts
those that end.

    WorkerPool.run -> in the launcher: watches the workers until none is ready; returns how the last one ended
                   -> in each worker: returns at once with its WorkerContext

The kernel spreads new connections over the open listeners by a hash of their addresses (SO_REUSEPORT). A
worker that ends costs only its own connections: its listener is shut at once, and the others get its share of
new ones. Workers start one after the other, with a backoff, so that the remote host never sees many logins at
a time; after a refused login there is none for an hour. The output of a worker and its ssh is passed on as
`worker N: ...`, which the daemon ignores as long as other workers serve. The last lines of the last worker
are printed once more without that prefix.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import os
import random
import re
import select
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tunnels.drivers.cli import say
from tunnels.kinds.sshuttle.limits import NOT_FULL, WORKER_CONNECTIONS
from tunnels.kinds.sshuttle.listener import ProxyListener

FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.5, 60.0  # ceilings of the pause before a restart (full jitter)
STABLE_SECONDS = 10.0  # a worker that was ready for so long resets the backoff
REFUSED_SECONDS = 3600.0  # pause after a refused login
START_SECONDS = 60.0  # in which a worker must become ready
LAST_LINES = 30  # of a worker's output, kept for the case that it is the last one
_PR_SET_PDEATHSIG = 1
_FULL = b"X_FULL="  # notification of a worker to the launcher, with 1 or 0
_REFUSAL = re.compile(
    rb"(?!remote: ).*(?:Permission denied|Host key verification failed|HOST IDENTIFICATION HAS CHANGED|Too many "
    rb"authentication failures)"
)


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What a worker runs with."""

    listener: ProxyListener
    notify: Callable[..., object]
    on_full: Callable[[bool], object]  # True: it can carry no more connections; False: it can again


@dataclass(slots=True)
class _Worker:
    """A running worker, as the launcher sees it."""

    number: int
    pid: int
    pidfd: int
    output: int  # pipe with the output of the worker and its ssh
    notices: int  # pipe with its notifications, one a line
    started: float  # monotonic seconds, as is `ready_since`
    ready_since: float | None = None
    full: bool = False
    rest: bytes = b""
    last_lines: collections.deque[bytes] = field(default_factory=lambda: collections.deque(maxlen=LAST_LINES))

    @property
    def is_ready(self) -> bool:
        """It accepts connections, as far as we know."""
        return self.ready_since is not None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Descriptors of the launcher for this worker."""
        return self.pidfd, self.output, self.notices

    def relay_output(self) -> None:
        """Pass on what it has printed since."""
        *lines, self.rest = (self.rest + _read(self.output)).split(b"\n")
        for line in lines:
            self.last_lines.append(line)
            _relay(self.number, line)

    def take_notices(self) -> bool:
        """Read its notifications; True: it has become ready."""
        before = self.ready_since
        for notice in _read(self.notices).split(b"\n"):
            if notice == b"READY=1" and self.ready_since is None:
                self.ready_since = time.monotonic()
            elif notice.startswith(_FULL):
                self.full = notice == _FULL + b"1"
        return self.ready_since != before

    def exit_status(self) -> int:
        """Reap it; returns its exit code, or the negative number of the signal that ended it."""
        _, status = os.waitpid(self.pid, 0)
        self.relay_output()
        if self.rest:
            self.last_lines.append(self.rest)
        for descriptor in self.descriptors:
            os.close(descriptor)
        return os.waitstatus_to_exitcode(status)


class WorkerPool:
    """Runs one worker for each of these listeners."""

    def __init__(self, listeners: Sequence[ProxyListener], notify: Callable[..., object]) -> None:
        """`notify` sends notifications to the daemon (sd_notify)."""
        self._listeners, self._notify = tuple(listeners), notify
        self._workers: dict[int, _Worker] = {}  # by number
        self._was_ready = False
        self._full = 0  # workers that were reported as full
        self._failures = 0
        self._next_start = 0.0
        self._libc = ctypes.CDLL(None)

    def run(self) -> WorkerContext | int:
        """Run until no worker is ready. In a worker: returns what it runs with; in the launcher: how the last
        worker ended, as an exit code or the negative number of a signal.
        """
        while True:
            if self._may_start() and (context := self._start()) is not None:
                return context
            self._wait()
            for worker in list(self._workers.values()):
                worker.relay_output()
                if worker.take_notices():
                    self._on_ready(worker)
                if _is_readable(worker.pidfd):
                    code = self._ended(worker)
                    if not self._ready():
                        _write(*worker.last_lines)
                        return code
            self._tell_full()

    def _tell_full(self) -> None:
        """Print how many workers are full whenever that has changed. They refuse connections that the kernel
        gives to them.
        """
        full = sum(worker.full for worker in self._workers.values())
        if full != self._full:
            self._full = full
            text = (
                f"full: {full} of {len(self._listeners)} workers carry {WORKER_CONNECTIONS} connections each and "
                f"refuse new ones"
            )
            say(text if full else NOT_FULL)

    def _ready(self) -> int:
        return sum(worker.is_ready for worker in self._workers.values())

    def _starting(self) -> _Worker | None:
        return next((worker for worker in self._workers.values() if not worker.is_ready), None)

    # --- starting
    # ------------------------------------------------------------------------------------------------------

    def _may_start(self) -> bool:
        return (
            len(self._workers) < len(self._listeners)
            and self._starting() is None
            and time.monotonic() >= self._next_start
        )

    def _start(self) -> WorkerContext | None:
        """Fork a worker. In the worker: returns its context."""
        number = next(n for n in range(1, len(self._listeners) + 1) if n not in self._workers)
        # none of these is inherited by ssh: Python closes them on exec
        (output, printed), (notices, noticed) = os.pipe(), os.pipe()
        launcher = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._end_with(launcher)
            for other in (
                output,
                notices,
                *(d for worker in self._workers.values() for d in worker.descriptors),
            ):
                os.close(other)
            for standard in (1, 2):
                os.dup2(printed, standard)
            os.close(printed)
            for listener in self._listeners[: number - 1] + self._listeners[number:]:
                listener.forget()

            def tell(*notices: bytes) -> int:
                return os.write(noticed, b"".join(notice + b"\n" for notice in notices))

            return WorkerContext(
                self._listeners[number - 1], tell, lambda full: tell(_FULL + (b"1" if full else b"0"))
            )
        for its in (printed, noticed):
            os.close(its)
        for heard in (output, notices):
            os.set_blocking(heard, False)
        self._workers[number] = _Worker(number, pid, os.pidfd_open(pid), output, notices, time.monotonic())
        return None

    def _end_with(self, launcher: int) -> None:
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:  # the launcher ended before prctl
            os._exit(1)

    def _on_ready(self, worker: _Worker) -> None:
        self._next_start = 0.0
        status = self._status()
        self._notify(*(() if self._was_ready else (b"READY=1",)), b"STATUS=" + status)
        self._was_ready = True
        _relay(worker.number, b"facilitator: ready; " + status)

    def _status(self) -> bytes:
        return b"%d of %d workers serve" % (self._ready(), len(self._listeners))

    # --- watching
    # ------------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Wait for output, a notification, an end or the next start. Kills a worker that takes too long to
        start.
        """
        waiting = select.poll()
        for worker in self._workers.values():
            for descriptor in worker.descriptors:
                waiting.register(descriptor, select.POLLIN)
        starting, due = self._starting(), None
        if starting is not None:
            due = starting.started + START_SECONDS
        elif len(self._workers) < len(self._listeners):
            due = self._next_start
        waiting.poll(None if due is None else max(0.0, due - time.monotonic()) * 1000)
        if starting is not None and time.monotonic() >= starting.started + START_SECONDS:
            os.kill(starting.pid, signal.SIGKILL)

    def _ended(self, worker: _Worker) -> int:
        self._listeners[worker.number - 1].shut()
        del self._workers[worker.number]
        code = worker.exit_status()
        if worker.ready_since is not None and time.monotonic() - worker.ready_since >= STABLE_SECONDS:
            self._failures = 0
        pause = self._pause(not worker.is_ready and any(map(_REFUSAL.match, worker.last_lines)))
        self._failures += 1
        self._next_start = time.monotonic() + pause
        status = self._status()
        self._notify(b"STATUS=" + status)
        then = b"; the next start is in %.1f s" % pause if self._ready() else b""
        _relay(worker.number, b"facilitator: ended with code %d; %s%s" % (code, status, then))
        return code

    def _pause(self, refused: bool) -> float:
        """Full jitter below a ceiling that doubles with each failure."""
        if refused:
            return REFUSED_SECONDS
        ceiling = FIRST_BACKOFF_SECONDS * 2 ** min(self._failures, 10)
        return random.uniform(0, min(MAX_BACKOFF_SECONDS, ceiling))


def _is_readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


def _read(descriptor: int) -> bytes:
    """Read what is there now, at most 64 KiB."""
    with contextlib.suppress(BlockingIOError):
        return os.read(descriptor, 1 << 16)
    return b""


def _relay(number: int, line: bytes) -> None:
    _write(b"worker %d: %s" % (number, line))


def _write(*lines: bytes) -> None:
    with contextlib.suppress(OSError):  # the daemon does not read it any more: no reason to end
        os.write(2, b"".join(line + b"\n" for line in lines))
