"""The only thing that writes log lines: a bounded queue and one daemon thread, so that a reader which does
not read stalls nobody.

Lines come from `reports.log.configure` in any thread and leave through one file descriptor.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable

LIMIT = 10_000  # lines that wait at most
BATCH = 256  # lines in one write


class LineWriter:
    """Writes lines to a file descriptor from a thread of its own. What finds the queue full is dropped,
    counted and reported later.
    """

    def __init__(self, fd: int, notice: Callable[[int], str], limit: int = LIMIT) -> None:
        """`notice` renders the line that says how many lines were dropped."""
        self._fd = fd
        self._notice = notice
        self._limit = limit
        self._lines: deque[str] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._writing = False
        self._unreported = 0
        self.dropped = 0  # lines, since the start
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Queue one line (no newline). From any thread; never waits for the reader."""
        with self._changed:
            if len(self._lines) >= self._limit or self._closing:
                self.dropped += 1
                self._unreported += 1
                return
            self._lines.append(line)
            self._changed.notify_all()

    def flush(self, timeout: float = 1.0) -> None:
        """Wait until what was put in by now is written, for at most `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lines and not self._writing, timeout)

    def close(self, timeout: float = 2.0) -> bool:
        """Write what waits, for at most `timeout` seconds; True when all of it was written."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while batch := self._take():
            try:
                _write(self._fd, "".join(f"{line}\n" for line in batch).encode("utf-8", "backslashreplace"))
            except OSError:  # nobody reads any more: lines are of no use to anyone, the daemon goes on
                with self._changed:
                    self.dropped += len(batch)
                    self._unreported += len(batch)

    def _take(self) -> list[str]:
        """The next lines, at least one; empty at the end."""
        with self._changed:
            self._writing = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._lines or self._closing)
            self._writing = bool(self._lines)
            batch = [self._lines.popleft() for _ in range(min(BATCH, len(self._lines)))]
            dropped, self._unreported = (self._unreported, 0) if batch else (0, self._unreported)
        return [*batch, self._notice(dropped)] if dropped else batch


def _write(fd: int, data: bytes) -> None:
    """All of it, also where the descriptor happens to be non-blocking (it is shared with whoever gave it
    to us).
    """
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            select.select([], [fd], [])
