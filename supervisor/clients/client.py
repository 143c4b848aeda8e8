"""One session of one client: its process, its output, and what its dialogue makes of that."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from supervisor.clients import processes
from supervisor.clients.inotify import InotifyWatches
from supervisor.clients.last_words import LastWords
from supervisor.clients.lines import MAX_LINE_CHARS, Masker
from supervisor.clients.log import Log
from supervisor.clients.output import Follower
from supervisor.clients.questions import Questions
from supervisor.clients.reaper import ProcessTree
from supervisor.clients.sockets import Management, NotifySocket
from supervisor.core.events import ClientSaid, Event
from tunnels.base import (
    AnyKind,
    Connected,
    Dialogue,
    Failed,
    Full,
    Keep,
    LineSource,
    NextServer,
    Observation,
    Question,
    Say,
    SignOfLife,
)

Reported = Connected | Failed | Full | NextServer | SignOfLife  # what becomes an event as it is
BATCH_LINES = 128  # passed to the log at once


@dataclass(frozen=True, slots=True)
class LineHandler:
    """Passes every line of a session's client to the kind's dialogue, and posts what it means as
    `ClientSaid`.

    Secrets for the next login go to `keep` instead, questions to `questions`.
    """

    tunnel: str
    session: int
    dialogue: Dialogue
    masker: Masker
    log: Log
    post: Callable[[Event], None]
    keep: Callable[[str], None]
    questions: Questions

    def on_line(self, source: LineSource, line: str) -> list[Say]:
        """Take one line of the client; returns the replies."""
        return self._understood(lambda: self.dialogue.receive(source, line))

    def answer(self, text: str) -> list[Say]:
        """Take the answer to the client's question; returns what to send."""
        self.masker.add(text.encode())
        return self._understood(lambda: self.dialogue.answer(text))

    def replay(self, source: LineSource, line: str) -> None:
        """Pass a line to the dialogue for its memory only: an earlier daemon has already acted on it."""
        with self._contained():
            list(self.dialogue.receive(source, line))

    def _understood(self, understand: Callable[[], Iterable[Say | Observation]]) -> list[Say]:
        says: list[Say] = []
        with self._contained():
            for item in list(understand()):
                self._follow(item, says)
        return says

    def _follow(self, item: Say | Observation, says: list[Say]) -> None:
        match item:
            case Say():
                says.append(item)
            case Keep():
                self.keep(item.secret)
            case Question():
                self.questions.ask(replace(item, text=self.masker.text(item.text)))
            case _:
                if isinstance(item, Connected):
                    self.questions.accept()
                self.post(ClientSaid(self.tunnel, self.session, self._masked(item)))

    @contextlib.contextmanager
    def _contained(self) -> Iterator[None]:
        """Log what a dialogue raises, against its contract: the other tunnels go on."""
        try:
            yield
        except Exception as error:
            self.log.note(self.masker.text(f"a line was not understood: {type(error).__name__}: {error}"))

    def _masked(self, what: Reported) -> Reported:
        return replace(what, text=self.masker.text(what.text)) if isinstance(what, Failed) else what


@dataclass(frozen=True, slots=True)
class Shared:
    """What all clients of a runner use together."""

    watches: InotifyWatches
    turn: asyncio.Lock  # held while one client's output is read, so that one at a time is


class Client:
    """A running client. `drain` closes it after its end; `close` lets it run on, for the next daemon."""

    def __init__(
        self,
        tree: ProcessTree,
        handler: LineHandler,
        shared: Shared,
        directory: Path,
        offset: int | None,
        kind: AnyKind,
        pidfd: int,
    ) -> None:
        """Owns `pidfd` from now on. `offset`: from where on the output file is read; None: where an
        earlier daemon stopped reading. OSError: the file cannot be read.
        """
        self.tree, self.session, self.kind, self.place = tree, handler.session, kind, directory.name
        self._handler, self._shared = handler, shared
        self.pidfd = pidfd
        self.reaped = False
        self._end: os.waitid_result | None = None
        try:
            self._follower = Follower(
                directory, offset, shared.watches, shared.turn, self._take, handler.log, self._pause
            )
        except OSError:
            os.close(self.pidfd)
            raise
        self._management: Management | None = None
        self._notify: NotifySocket | None = None
        self._last_words = LastWords()
        self._suspicious = False  # a notification was ignored, which is logged once

    @property
    def last_words(self) -> str | None:
        """Its last own line."""
        return self._last_words.text

    def attach(self, management: Path | None, key: str, notify: NotifySocket | None) -> None:
        """Connect to the management socket once the client has made it, and read its notifications."""
        if management is not None:
            self._management = Management(
                management,
                self._shared.watches,
                lambda line: self.on_line(LineSource.MANAGEMENT, line),
                self._handler.log,
                key,
            )
        if notify is not None:
            self._notify = notify
            notify.listen(lambda line: self.on_line(LineSource.NOTIFY, line), self._may_notify)

    def _may_notify(self, pid: int) -> bool:
        """Every process of our user can send to this socket, other clients too: check the sender."""
        sender = processes.traces(pid)
        ours = sender is not None and self.tree.includes(sender)
        if not ours and not self.reaped and not self._suspicious:
            self._suspicious = True
            self._handler.log.note(
                f"a notification was ignored: its sender, process {pid}, has ended or is none of the client's"
            )
        return ours

    def on_line(self, source: LineSource, line: str) -> None:
        """Take one line of the client, from any source; replies go to the management socket."""
        self.tell(self._handler.on_line(source, line))

    def answer(self, text: str) -> None:
        """Answer its question."""
        self.tell(self._handler.answer(text))

    def tell(self, says: Iterable[Say]) -> None:
        """Send these to its management socket."""
        for say in says:
            if self._management is not None:
                self._management.send(say.line)

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the process group. Descendants are recorded before, because some may have left the group and
        must be found at the end.
        """
        if not self.reaped:
            self.tree.look()
            self._signal_group(number)

    def reap(self) -> None:
        """Reap the ended main process and kill the rest of its group."""
        self._signal_group(signal.SIGKILL)
        self.reaped = True
        with contextlib.suppress(ChildProcessError):  # an adopted client is not our child
            self._end = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)

    def exit_status(self) -> tuple[int | None, int | None]:
        """The exit code, or the number of the signal that ended it. Call once, after `reap`.

        Neither is known if the client is not our child and its parent has not reaped it yet: (None, None).
        """
        try:
            if self._end is not None:
                number = self._end.si_status
                return (number, None) if self._end.si_code == os.CLD_EXITED else (None, number)
            status = processes.exit_status(self.pidfd)
        finally:
            os.close(self.pidfd)
        if status is None:
            return None, None
        return (
            (None, os.WTERMSIG(status))
            if os.WIFSIGNALED(status)
            else (os.waitstatus_to_exitcode(status), None)
        )

    def wake(self) -> None:
        """Continue a client that an earlier daemon has stopped (SIGSTOP) because it flooded its output."""
        self._pause(False)

    def replay(self, source: LineSource, line: str) -> None:
        """Pass a line to the dialogue for its memory only: an earlier daemon has already acted on it."""
        self._handler.replay(source, line)

    async def drain(self, within: float) -> None:
        """Read the last lines of the ended client, for about `within` seconds at most, let the dialogue
        conclude, and close.
        """
        self._handler.questions.close()
        if self._notify is not None:
            self._notify.drain()
        await asyncio.gather(
            self._follower.drain(within),
            *([] if self._management is None else [self._management.drain(within)]),
        )
        self._handler.on_line(LineSource.END, "")
        self._handler.log.flush()

    async def close(self) -> None:
        """Stop listening; the process is left alone."""
        self._handler.questions.close()
        if self._notify is not None:
            self._notify.close()
        await asyncio.gather(
            self._follower.close(), *([] if self._management is None else [self._management.close()])
        )
        if not self.reaped:
            os.close(self.pidfd)
            self.reaped = True

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            processes.signal_group(self.pidfd, self.tree.pid, number)

    def _pause(self, halt: bool) -> None:
        if not self.reaped:
            self._signal_group(signal.SIGSTOP if halt else signal.SIGCONT)

    def _take(self, lines: Iterator[str], until: float) -> bool:
        """Handle and log some of the lines, until `until` (monotonic seconds). True: there were some."""
        taken = []
        for line in islice(lines, BATCH_LINES):
            self.on_line(LineSource.OUTPUT, line[:MAX_LINE_CHARS])
            taken.append(line)
            if time.monotonic() >= until:
                break
        masked = self._handler.masker.lines(taken)
        self._handler.log.add(masked)
        self._last_words.hear(masked)
        return bool(taken)
