"""Writes log lines to one file descriptor, through a bounded queue and a thread of its own, so that a reader
that stalls (journald, a full pipe) never blocks the daemon.

`reports.log.configure` renders the lines, in any thread.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable

MAX_WAITING_LINES = 10_000  # beyond that new lines are dropped
MAX_BATCH_LINES = 256  # in one write


class LineWriter:
    """Writes lines to a file descriptor from a thread of its own. Lines that find the queue full are dropped,
    counted and reported later. Thread-safe.
    """

    def __init__(self, fd: int, notice: Callable[[int], str], limit: int = MAX_WAITING_LINES) -> None:
        """`notice` renders the line that reports how many lines were dropped; `limit` in lines."""
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
        """Queue one line, without its newline. Never blocks."""
        with self._changed:
            if len(self._lines) >= self._limit or self._closing:
                self.dropped += 1
                self._unreported += 1
                return
            self._lines.append(line)
            self._changed.notify_all()

    def flush(self, timeout: float = 1.0) -> None:
        """Wait until all queued lines are written, for at most `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lines and not self._writing, timeout)

    def close(self, timeout: float = 2.0) -> bool:
        """Write the queued lines and stop, within `timeout` seconds; True if all of them were written."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while batch := self._take():
            try:
                _write(self._fd, "".join(f"{line}\n" for line in batch).encode("utf-8", "backslashreplace"))
            except OSError:  # the reader is gone: drop the lines, the daemon goes on
                with self._changed:
                    self.dropped += len(batch)
                    self._unreported += len(batch)

    def _take(self) -> list[str]:
        """The next lines, at least one; none at the end."""
        with self._changed:
            self._writing = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._lines or self._closing)
            self._writing = bool(self._lines)
            batch = [self._lines.popleft() for _ in range(min(MAX_BATCH_LINES, len(self._lines)))]
            dropped, self._unreported = (self._unreported, 0) if batch else (0, self._unreported)
        return [*batch, self._notice(dropped)] if dropped else batch


def _write(fd: int, data: bytes) -> None:
    """Write all of it, also to a non-blocking descriptor: O_NONBLOCK belongs to the open file description,
    which other processes share (open(2)).
    """
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            select.select([], [fd], [])
