"""`facilitator upgrade`: the process goes on with new code, and nothing that it runs notices.

The new code is asked first, in a process of its own, whether it can go on from what we have. Then the process
changes its program (execve(2)): it stays the parent of its clients and keeps its sockets and its lock. For
all else this is a crash without a loss, and the new program adopts what it finds. Until that last step
nothing is given up: a program that cannot start leaves the old one at work.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import structlog

from supervisor import __version__
from supervisor.app.stores.upgrade_document import CHECKED, GIVEN, HandoverDocument, written
from supervisor.app.wiring import Parts, summary
from supervisor.config import Config
from supervisor.core.events import Noticed

ASKED_WITHIN = 60.0  # seconds for the new program to say whether it can go on
SIGNALS = frozenset(
    {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}
)  # wait until the new program listens to them


class Upgrade:
    """One upgrade of a running daemon."""

    def __init__(
        self,
        parts: Parts,
        config: Config,
        lock: int,
        log_written: Callable[[], object],
        program: str = sys.executable,
    ) -> None:
        """`lock`: descriptor of the lock on runtime_dir; `log_written` waits until the log is written;
        `program`: what runs our code.
        """
        self._parts, self._config, self._lock, self._log_written = parts, config, lock, log_written
        self._argv = [program, *sys.orig_argv[1:]]  # the command line that this process was started with
        self._log = structlog.get_logger()

    async def run(self) -> list[str]:
        """Does not return where it succeeds; else why it did not, and the old program goes on."""
        version, errors = await self._asked()
        if errors:
            self._log.error("upgrade refused, this version goes on", version=__version__, errors=errors)
            return errors
        self._log.info("upgrading", version=__version__, to=version)
        self._parts.notifier.reloading()
        await self._at_rest()
        try:
            self._become()
        except OSError as error:
            self._log.error("upgrade failed, this version goes on", version=__version__, error=str(error))
            self._parts.notifier.ready(summary(self._parts.engine.snapshot))
            self._parts.inbox.post(Noticed(""))  # a turn of the engine, whose deadlines may be others by now
            return [f"{self._argv[0]} cannot be executed: {error.strerror}"]

    async def _asked(self) -> tuple[str, list[str]]:
        """The version of the new program, and what it has against going on."""
        document = written(self._handover())
        try:
            done = await asyncio.to_thread(_ask, self._argv, document)
        except (OSError, subprocess.TimeoutExpired) as error:
            return "", [f"the new program could not be asked: {error}"]
        finally:
            os.close(document)
        if done.returncode == 0:
            return done.stdout.strip(), []
        said = done.stderr.strip().splitlines() or [
            f"the new program ended with code {done.returncode} and said nothing"
        ]
        return "", said[-1:] if any(line.startswith("Traceback ") for line in said) else said

    async def _at_rest(self) -> None:
        """Until nothing that has happened waits to be understood, and no order to be carried out."""
        engine, inbox, runner = self._parts.engine, self._parts.inbox, self._parts.runner
        while (events := inbox.take()) or runner.busy:
            for _ in engine.turn(events):
                pass
            await asyncio.sleep(0)
        self._log_written()

    def _become(self) -> NoReturn:
        """OSError: the system refuses."""
        handover = self._handover()
        document = written(handover)
        environment = {**os.environ, **self._parts.notifier.environment, GIVEN: str(document)}
        self._parts.notifier.watchdog()  # the new program has all of the time that a look at us may take
        with _inheritable(document, *handover.descriptors()), _blocked():
            try:
                os.execve(self._argv[0], self._argv, environment)  # noqa: S606 - the program that we are
            finally:
                os.close(document)

    def _handover(self) -> HandoverDocument:
        parts, config = self._parts, self._config.facilitator
        records = parts.engine.records(self._config.tunnels)
        return HandoverDocument(
            version=__version__,
            upgrades=parts.identity.upgrades,
            runtime_dir=str(config.runtime_dir),
            state_dir=str(config.state_dir),
            lock=self._lock,
            listening=parts.servers.descriptors(),
            tunnels={
                name: parts.memory.stored(name, record)
                for name, record in records.items()
                if record is not None
            },
            kept=parts.runner.kept,
        )


def _ask(argv: Sequence[str], document: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        env={**os.environ, CHECKED: str(document)},
        pass_fds=(document,),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=ASKED_WITHIN,
        check=False,
    )


@contextlib.contextmanager
def _inheritable(*descriptors: int) -> Iterator[None]:
    for fd in descriptors:
        os.set_inheritable(fd, True)
    try:
        yield
    finally:
        for fd in descriptors:
            with contextlib.suppress(OSError):
                os.set_inheritable(fd, False)


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    """Signals that come while nobody can handle them wait: a blocked one outlives execve(2)."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
