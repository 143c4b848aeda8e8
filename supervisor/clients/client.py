"""One session of one client: the process, what it says, and what its dialogue makes of that."""

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
from supervisor.clients.lines import LINE_CAP, Masker
from supervisor.clients.log import Log
from supervisor.clients.output import Follower
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
    Observation,
    Question,
    Say,
)

BATCH = 128  # lines that are logged at once


@dataclass(frozen=True, slots=True)
class LineHandler:
    """Hears a session's client: every line goes through the kind's dialogue, and what it means is posted.

    What is a secret, or may be answered here, goes to `keep` and `ask` instead.
    """

    tunnel: str
    session: int
    dialogue: Dialogue
    masker: Masker
    log: Log
    post: Callable[[Event], None]
    keep: Callable[[str], None]
    ask: Callable[[Question], None]

    def on_line(self, source: LineSource, line: str) -> list[Say]:
        """One line of the client; what to answer."""
        return self._understood(lambda: self.dialogue.receive(source, line))

    def answer(self, text: str) -> list[Say]:
        """The answer to the client's question; what to tell it."""
        self.masker.add(text.encode())
        return self._understood(lambda: self.dialogue.answer(text))

    def replay(self, source: LineSource, line: str) -> None:
        """A line that an earlier daemon has heard: the dialogue remembers it, and nothing follows from it."""
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
                self.ask(replace(item, text=self.masker.text(item.text)))
            case _:
                self.post(ClientSaid(self.tunnel, self.session, self._masked(item)))

    @contextlib.contextmanager
    def _contained(self) -> Iterator[None]:
        """A kind that does not keep its promise must not take the other tunnels down."""
        try:
            yield
        except Exception as error:
            self.log.note(self.masker.text(f"a line was not understood: {type(error).__name__}: {error}"))

    def _masked(self, what: Connected | Failed | Full) -> Connected | Failed | Full:
        return replace(what, text=self.masker.text(what.text)) if isinstance(what, Failed) else what


@dataclass(frozen=True, slots=True)
class Shared:
    """What all clients of a runner share."""

    watches: InotifyWatches
    turn: asyncio.Lock  # held while a follower works


class Client:
    """A running client: of `tree`, in `directory`. Closed by `drain` after its end, or by `close` while
    it goes on without us.
    """

    def __init__(
        self,
        tree: ProcessTree,
        id: str,
        handler: LineHandler,
        shared: Shared,
        directory: Path,
        offset: int | None,
        kind: AnyKind,
        pidfd: int,
    ) -> None:
        """Takes `pidfd` over. `offset`: where its output begins; None: where an earlier daemon has
        stopped. OSError: it cannot be read.
        """
        self.tree, self.id, self.session, self.kind, self.place = (
            tree,
            id,
            handler.session,
            kind,
            directory.name,
        )
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
        self._suspicious = False  # a notification was ignored, which is said once

    def attach(self, management: Path | None, key: str, notify: NotifySocket | None) -> None:
        """Talk to the management socket as soon as the client has made it, and hear its notifications."""
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
        """Every process of our user can send to its socket, other clients too."""
        sender = processes.traces(pid)
        ours = sender is not None and self.tree.includes(sender)
        if not ours and not self.reaped and not self._suspicious:
            self._suspicious = True
            self._handler.log.note(
                f"a notification was ignored: its sender, process {pid}, has ended or is none of the client's"
            )
        return ours

    def on_line(self, source: LineSource, line: str) -> None:
        """One line of the client, from wherever; answers go to the management socket."""
        self.tell(self._handler.on_line(source, line))

    def answer(self, text: str) -> None:
        """The answer to its question."""
        self.tell(self._handler.answer(text))

    def tell(self, says: Iterable[Say]) -> None:
        """Send lines to its management socket."""
        for say in says:
            if self._management is not None:
                self._management.send(say.line)

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the process group. Descendants are remembered: some may have left the group and must be
        found again at the end.
        """
        if not self.reaped:
            self.tree.look()
            self._signal_group(number)

    def reap(self) -> None:
        """Collect the ended main process. The rest of its group goes with it."""
        self._signal_group(signal.SIGKILL)
        self.reaped = True
        with contextlib.suppress(ChildProcessError):  # it is another one's child
            self._end = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)

    def exit_status(self) -> tuple[int | None, int | None]:
        """Its exit code, or the signal that ended it; of another one's child neither is known before that
        one has reaped it. Once.
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
        """An earlier daemon may have halted it for flooding us."""
        self._pause(False)

    def replay(self, source: LineSource, line: str) -> None:
        """What an earlier daemon has heard, for the dialogue alone: what it means was understood then."""
        self._handler.replay(source, line)

    async def drain(self, within: float) -> None:
        """Hear out what the ended client has said, for about `within` seconds at most, and close."""
        if self._notify is not None:
            self._notify.drain()
        await asyncio.gather(
            self._follower.drain(within),
            *([] if self._management is None else [self._management.drain(within)]),
        )
        self._handler.log.flush()

    async def close(self) -> None:
        """Stop listening; the process is left alone."""
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
        """Hear and log some of the lines: to understand one may take its time."""
        taken = []
        for line in islice(lines, BATCH):
            self.on_line(LineSource.OUTPUT, line[:LINE_CAP])
            taken.append(line)
            if time.monotonic() >= until:
                break
        self._handler.log.add(self._handler.masker.lines(taken))
        return bool(taken)
