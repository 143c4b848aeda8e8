"""Several workers behind one port: forks them, tells the daemon when the first one serves, and starts
again those that ended.

    Crew.run -> in the launcher: watches the workers, until none of them serves; gives how the last one ended
             -> in each worker: returns at once with its Post

The kernel spreads new connections over the open doors by a hash of their addresses. A worker that ends costs
its own connections only: its door is shut at once, and its share goes to the others. Workers are started one
after the other, and by and by when that fails, so that the far side never sees all of them knock; after a
refusal nobody knocks for an hour. What a worker and its ssh say is told as `worker N: ...`, which is no news
of the tunnel as long as others serve. The last one's words are told once more, as the tunnel's own.
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

from tunnels.kinds.sshuttle.limits import CONNECTIONS, NOT_FULL
from tunnels.kinds.sshuttle.messages import say
from tunnels.kinds.sshuttle.patch import ProxyListener

FIRST, LONGEST = 0.5, 60.0  # seconds: the longest pause before the first new start, and before any
STABLE = 10.0  # seconds of service that make earlier failures forgotten
REFUSED = 3600.0  # seconds before the far side is asked again when it does not want us
START_WITHIN = 60.0  # seconds in which a worker must serve
WORDS = 30  # lines of a worker that are kept for its obituary
_PR_SET_PDEATHSIG = 1
_FULL = b"X_FULL="  # a worker's notice to the launcher, with 1 or 0
_REFUSAL = re.compile(
    rb"Permission denied|Host key verification failed|HOST IDENTIFICATION HAS CHANGED|Too many "
    rb"authentication failures"
)


@dataclass(frozen=True, slots=True)
class Post:
    """What a worker works with."""

    door: ProxyListener
    notify: Callable[..., object]
    full: Callable[[bool], object]  # hears when it can carry no more connections, and when it can again


@dataclass(slots=True)
class _Worker:
    """One living worker, as the launcher sees it."""

    number: int
    pid: int
    pidfd: int
    output: int  # what it and its ssh print
    notices: int  # what it would tell a service manager
    started: float
    served: float | None = None
    full: bool = False
    rest: bytes = b""
    words: collections.deque[bytes] = field(default_factory=lambda: collections.deque(maxlen=WORDS))

    @property
    def serves(self) -> bool:
        """Its door is open, as far as we know."""
        return self.served is not None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What belongs to it here."""
        return self.pidfd, self.output, self.notices

    def hear(self) -> None:
        """Tell on what it printed since."""
        *lines, self.rest = (self.rest + _read(self.output)).split(b"\n")
        for line in lines:
            self.words.append(line)
            _tell(self.number, line)

    def take_notices(self) -> bool:
        """Learn what it told; True: it serves, since just now."""
        served = self.served
        for notice in _read(self.notices).split(b"\n"):
            if notice == b"READY=1" and self.served is None:
                self.served = time.monotonic()
            elif notice.startswith(_FULL):
                self.full = notice == _FULL + b"1"
        return self.served != served

    def bury(self) -> int:
        """Reap it; its exit code, or the negative number of the signal that ended it."""
        _, status = os.waitpid(self.pid, 0)
        self.hear()
        if self.rest:
            self.words.append(self.rest)
        for descriptor in self.descriptors:
            os.close(descriptor)
        return os.waitstatus_to_exitcode(status)


class Crew:
    """The workers behind these doors, one each."""

    def __init__(self, doors: Sequence[ProxyListener], notify: Callable[..., object]) -> None:
        """`notify` tells the daemon."""
        self._doors, self._notify = tuple(doors), notify
        self._workers: dict[int, _Worker] = {}  # by number
        self._was_ready = False
        self._full = 0  # workers that were said to be
        self._failures = 0
        self._next_start = 0.0
        self._libc = ctypes.CDLL(None)

    def run(self) -> Post | int:
        """Serve until nobody serves any more. In a worker: what it works with; in the launcher: how the
        last worker ended.
        """
        while True:
            if self._may_start() and (post := self._start()) is not None:
                return post
            self._wait()
            for worker in list(self._workers.values()):
                worker.hear()
                if worker.take_notices():
                    self._welcome(worker)
                if _is_readable(worker.pidfd):
                    code = self._ended(worker)
                    if not self._serving():
                        _write(*worker.words)
                        return code
            self._tell_full()

    def _tell_full(self) -> None:
        """Say how many workers carry no more, whenever that has changed. New connections that the kernel
        gives to those are refused.
        """
        full = sum(worker.full for worker in self._workers.values())
        if full != self._full:
            self._full = full
            text = (
                f"full: {full} of {len(self._doors)} workers carry {CONNECTIONS} connections each and "
                f"refuse new ones"
            )
            say(text if full else NOT_FULL)

    def _serving(self) -> int:
        return sum(worker.serves for worker in self._workers.values())

    def _starting(self) -> _Worker | None:
        return next((worker for worker in self._workers.values() if not worker.serves), None)

    # --- starting
    # ------------------------------------------------------------------------------------------------------

    def _may_start(self) -> bool:
        return (
            len(self._workers) < len(self._doors)
            and self._starting() is None
            and time.monotonic() >= self._next_start
        )

    def _start(self) -> Post | None:
        """A new worker; in the worker itself: its post."""
        number = next(n for n in range(1, len(self._doors) + 1) if n not in self._workers)
        # none of these reaches ssh: Python closes them on exec
        (output, printed), (notices, noticed) = os.pipe(), os.pipe()
        launcher = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._live_and_die_with(launcher)
            for other in (
                output,
                notices,
                *(d for worker in self._workers.values() for d in worker.descriptors),
            ):
                os.close(other)
            for standard in (1, 2):
                os.dup2(printed, standard)
            os.close(printed)
            for door in self._doors[: number - 1] + self._doors[number:]:
                door.forget()

            def tell(*notices: bytes) -> int:
                return os.write(noticed, b"".join(notice + b"\n" for notice in notices))

            return Post(self._doors[number - 1], tell, lambda full: tell(_FULL + (b"1" if full else b"0")))
        for its in (printed, noticed):
            os.close(its)
        for heard in (output, notices):
            os.set_blocking(heard, False)
        self._workers[number] = _Worker(number, pid, os.pidfd_open(pid), output, notices, time.monotonic())
        return None

    def _live_and_die_with(self, launcher: int) -> None:
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:  # it was faster
            os._exit(1)

    def _welcome(self, worker: _Worker) -> None:
        self._next_start = 0.0
        status = self._status()
        self._notify(*(() if self._was_ready else (b"READY=1",)), b"STATUS=" + status)
        self._was_ready = True
        _tell(worker.number, b"facilitator: ready; " + status)

    def _status(self) -> bytes:
        return b"%d of %d workers serve" % (self._serving(), len(self._doors))

    # --- watching
    # ------------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Until somebody says something or ends, or a start is due. One that starts for too long is ended."""
        waiting = select.poll()
        for worker in self._workers.values():
            for descriptor in worker.descriptors:
                waiting.register(descriptor, select.POLLIN)
        starting, due = self._starting(), None
        if starting is not None:
            due = starting.started + START_WITHIN
        elif len(self._workers) < len(self._doors):
            due = self._next_start
        waiting.poll(None if due is None else max(0.0, due - time.monotonic()) * 1000)
        if starting is not None and time.monotonic() >= starting.started + START_WITHIN:
            os.kill(starting.pid, signal.SIGKILL)

    def _ended(self, worker: _Worker) -> int:
        self._doors[worker.number - 1].shut()
        del self._workers[worker.number]
        code = worker.bury()
        if worker.served is not None and time.monotonic() - worker.served >= STABLE:
            self._failures = 0
        pause = self._pause(not worker.serves and any(map(_REFUSAL.search, worker.words)))
        self._failures += 1
        self._next_start = time.monotonic() + pause
        status = self._status()
        self._notify(b"STATUS=" + status)
        then = b"; the next start is in %.1f s" % pause if self._serving() else b""
        _tell(worker.number, b"facilitator: ended with code %d; %s%s" % (code, status, then))
        return code

    def _pause(self, refused: bool) -> float:
        """Full jitter below a ceiling that doubles."""
        return REFUSED if refused else random.uniform(0, min(LONGEST, FIRST * 2 ** min(self._failures, 10)))


def _is_readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


def _read(descriptor: int) -> bytes:
    """What is there now."""
    with contextlib.suppress(BlockingIOError):
        return os.read(descriptor, 1 << 16)
    return b""


def _tell(number: int, line: bytes) -> None:
    _write(b"worker %d: %s" % (number, line))


def _write(*lines: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody reads it any more: no reason to end
        os.write(2, b"".join(line + b"\n" for line in lines))
