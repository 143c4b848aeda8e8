"""`facilitator upgrade`: the process executes the new program (execve(2)) and keeps clients, sockets and
lock.

First the new program checks, in a process of its own, whether it can take over what we would hand over. Then
this process becomes the new program: it stays the parent of its clients, and adopts them as after a crash,
but without a loss. Until execve nothing is given up: if the new program cannot start, the old one goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

import structlog

from supervisor.app.owner import Owner
from supervisor.app.parts import Parts
from supervisor.app.status_line import summary
from supervisor.app.stores.upgrade_document import CHECKED, GIVEN, HandoverDocument, written
from supervisor.config import Config
from supervisor.core.events import Noticed
from supervisor.version import version

CHECK_TIMEOUT_SECONDS = 60.0  # for the new program to say whether it can take over
SIGNALS = frozenset(
    {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}
)  # wait until the new program listens to them


@dataclass(frozen=True, slots=True)
class ProcessLifetime:
    """What lives as long as this process, whatever program it runs."""

    lock: int  # descriptor of the lock on runtime_dir
    log_written: Callable[[], object]  # waits until the log is written
    owner: Owner
    handover: HandoverDocument | None = None  # from the program that this process was before an upgrade
    watch: bool = False  # reload whenever the configuration file changes


class Upgrade:
    """One upgrade of a running daemon."""

    def __init__(
        self,
        parts: Parts,
        config: Config,
        lock: int,
        log_written: Callable[[], object],
        parent: int,
        program: str = sys.executable,
    ) -> None:
        """`lock`: descriptor of the lock on runtime_dir; `log_written` waits until the log is written;
        `parent`: pid of whoever started this process; `program`: what runs our code.
        """
        self._parent = parent
        self._parts, self._config, self._lock, self._log_written = parts, config, lock, log_written
        self._argv = [program, *sys.orig_argv[1:]]  # the command line that this process was started with
        self._log = structlog.get_logger()

    async def run(self) -> list[str]:
        """Returns only if the upgrade failed: the reasons. The old program goes on then."""
        newer, errors = await self._checked()
        if errors:
            self._log.error("upgrade refused, this version keeps running", version=version(), errors=errors)
            return errors
        self._log.info("upgrading", version=version(), to=newer)
        self._parts.notifier.reloading()
        await self._drain_inbox()
        try:
            self._execute()
        except OSError as error:
            self._log.error("upgrade failed, this version keeps running", version=version(), error=str(error))
            self._parts.notifier.ready(summary(self._parts.engine.snapshot))
            self._parts.inbox.post(Noticed(""))  # a turn of the engine, whose deadlines may be others by now
            return [f"{self._argv[0]} cannot be executed: {error.strerror}"]

    async def _checked(self) -> tuple[str, list[str]]:
        """The version of the new program, and its reasons not to take over."""
        document = written(self._document())
        try:
            done = await asyncio.to_thread(_run_check, self._argv, document)
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

    async def _drain_inbox(self) -> None:
        """Wait until the inbox is empty, all of it is published, all clients are started, and the log is
        written.
        """
        engine, inbox, runner = self._parts.engine, self._parts.inbox, self._parts.data_plane.runner
        while (events := inbox.take()) or runner.busy or engine.unpublished:
            for _ in engine.turn(events):
                pass
            await asyncio.sleep(0)
        self._log_written()

    def _execute(self) -> NoReturn:
        """Become the new program. OSError: the kernel refuses."""
        handover = self._document()
        document = written(handover)
        environment = {**os.environ, **self._parts.notifier.environment, GIVEN: str(document)}
        self._parts.notifier.watchdog()  # the new program has all of the time that a look at us may take
        with _inheritable(document, *handover.descriptors()), _blocked():
            try:
                os.execve(self._argv[0], self._argv, environment)  # noqa: S606 - the program that we are
            finally:
                os.close(document)

    def _document(self) -> HandoverDocument:
        parts, config = self._parts, self._config.facilitator
        records = parts.engine.records(self._config.tunnels)
        return HandoverDocument(
            version=version(),
            upgrades=parts.identity.upgrades,
            runtime_dir=str(config.runtime_dir),
            state_dir=str(config.state_dir),
            lock=self._lock,
            parent=self._parent,
            listening=parts.servers.descriptors(),
            tunnels={
                name: parts.stores.records.stored(name, record)
                for name, record in records.items()
                if record is not None
            },
            kept=parts.data_plane.runner.kept,
        )


def _run_check(argv: Sequence[str], document: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        env={**os.environ, CHECKED: str(document)},
        pass_fds=(document,),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=CHECK_TIMEOUT_SECONDS,
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
    """Block signals until the new program handles them: a pending one survives execve(2)."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
