"""Ends a daemon whose event loop is stuck, under any supervisor and under none.

An interval timer of the kernel (setitimer(2), ITIMER_REAL) is rearmed by the loop itself. A loop that does
not come back lets it expire: SIGALRM writes the stack of every thread to `runtime_dir/stuck`, from C and
without the interpreter's lock (faulthandler), and then ends the process, as is its default. Nothing else of
the process has to work for that, no thread, no other process. The clients go on, and the next daemon adopts
them; it finds the stacks and says so.

The unit's WatchdogSec= is longer than this. Where somebody has made it shorter, systemd is first: its SIGABRT
leaves the stacks, too. So does a crash of native code (SIGSEGV and the like), which the next daemon tells
from a stuck loop.

A stopped process (SIGSTOP) is not ended by it: its timer waits, too.
"""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path

import structlog

from common.sd_notify import SystemdNotifier
from supervisor import disk
from supervisor.core.conditions import Condition
from supervisor.ticks import until_tick

STUCK_SECONDS = 32.0  # from the last sign of life to the end
ARM_SECONDS = 2.0  # between two signs of life
SHOWN_SECONDS = 900.0  # for which the next daemon shows that the last one was stuck
MAX_STACK_BYTES = 64 << 10
FILE = "stuck"
_FATAL = "Fatal Python error: "  # what faulthandler writes before the stacks at a signal of `enable`
_ABORTED = f"{_FATAL}Aborted"  # SIGABRT, which systemd's watchdog sends
_LIBRARY = os.path.dirname(os.__file__)


async def feed(service_manager: SystemdNotifier, stalled: Callable[[], str | None]) -> None:
    """Feed the unit's watchdog (WatchdogSec=, systemd.service(5)), if there is one, as long as nothing is
    late.
    """
    while (interval := service_manager.watchdog_interval) is not None:
        if stalled() is None:
            service_manager.watchdog()
        await until_tick(interval)


class LoopWatchdog:
    """Guards the loop of this process, and knows whether the last daemon was stuck.

    `stalled` says what is late although the loop turns (None: nothing); then the timer is not rearmed.
    """

    def __init__(
        self,
        runtime_dir: Path,
        stalled: Callable[[], str | None],
        clock: Callable[[], float],
        stuck_seconds: float = STUCK_SECONDS,
    ) -> None:
        self._path, self._stalled, self._clock = runtime_dir / FILE, stalled, clock
        self._stuck_seconds = stuck_seconds
        self._file: int | None = None
        self.last_stack = self._left()
        self._shown_until = clock() + SHOWN_SECONDS if self.last_stack else 0.0

    @property
    def was_stuck(self) -> bool:
        """The last daemon was ended because its loop did not come back; else its stacks are of a crash."""
        first = self.last_stack.partition("\n")[0]
        return bool(first) and (not first.startswith(_FATAL) or first == _ABORTED)

    @property
    def conditions(self) -> dict[str, Condition]:
        """That the last daemon was stuck, for a while after the start."""
        if not self.was_stuck or self._clock() >= self._shown_until:
            return {}
        text = (
            f"the event loop of the last daemon was stuck, in {_innermost(self.last_stack)}; it was ended, "
            "and this daemon adopted its clients; the log of this daemon's start has all stacks"
        )
        return {"event-loop-stuck": Condition(text, "warning", clear_after=0.0)}

    def start(self) -> None:
        """From now on a loop that is stuck ends the process. Its stacks are lost where `runtime_dir` takes no
        file.
        """
        try:
            disk.make_way(self._path)
            self._file = disk.opened(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        except OSError as error:
            structlog.get_logger().warning("a stuck event loop would leave no stacks", error=str(error))
            self._file = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        faulthandler.register(signal.SIGALRM, file=self._file, all_threads=True, chain=True)
        faulthandler.enable(self._file, all_threads=True)  # SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM,))
        self._arm()

    async def run(self) -> None:
        """Arm the timer again and again, for ever."""
        while True:
            if self._stalled() is None:
                self._arm()
            await until_tick(min(ARM_SECONDS, self._stuck_seconds / 4))

    def stop(self) -> None:
        """The daemon ends in good order: nobody guards it any longer."""
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        if self._file is not None:
            faulthandler.unregister(signal.SIGALRM)
            faulthandler.disable()
            os.close(self._file)
            self._file = None
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _arm(self) -> None:
        if self._file is not None:
            signal.setitimer(signal.ITIMER_REAL, self._stuck_seconds)

    def _left(self) -> str:
        """The stacks that the last daemon has left; empty if it was not stuck."""
        try:
            fd = disk.opened(self._path, os.O_RDONLY)
        except OSError:
            return ""
        with open(fd, "rb") as file:
            return file.read(MAX_STACK_BYTES).decode(errors="replace").strip()


def _innermost(stack: str) -> str:
    """Where the thread that runs the loop was, which faulthandler writes last: the innermost frame, and the
    first one that is not of Python's library.
    """
    lines = (line.strip() for line in stack.rpartition("hread 0x")[2].splitlines()[1:])
    frames = [line for line in lines if line.startswith('File "')]
    ours = (frame for frame in frames if not frame.startswith(f'File "{_LIBRARY}'))
    found = dict.fromkeys((*frames[:1], *itertools.islice(ours, 1)))
    return ", called from ".join(found) or "an unknown place"
