"""The log of a tunnel's clients, with secrets masked: the last lines, a live view, and a rate-limited copy in
the daemon's own log.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

from supervisor.clients.lines import LineLimiter

TAIL_LINES = 200  # kept per tunnel
MAX_BEHIND_LINES = 1000  # that a slow reader of `follow` may be behind
SUMMARY_SECONDS = 10.0  # until suppressed lines are summed up


class _View:
    """One reader of `follow`."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=MAX_BEHIND_LINES)
        self._dropped = 0
        self._news = asyncio.Event()
        self._closed = False

    def extend(self, lines: Sequence[str]) -> None:
        self._dropped += max(0, len(self._lines) + len(lines) - MAX_BEHIND_LINES)
        self._lines.extend(lines)
        self._news.set()

    def close(self) -> None:
        self._closed = True
        self._news.set()

    async def read(self) -> AsyncIterator[str]:
        while True:
            while self._lines or self._dropped:
                if self._dropped:
                    dropped, self._dropped = self._dropped, 0
                    yield f"{dropped} lines skipped"
                else:
                    yield self._lines.popleft()
            if self._closed:
                return
            self._news.clear()
            await self._news.wait()


class Log:
    """The lines of one tunnel, over all its sessions. `emit` gets the lines for the daemon's log."""

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._emit = emit
        self._ring: deque[str] = deque(maxlen=TAIL_LINES)
        self._limiter = LineLimiter()
        self._views: set[_View] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, lines: Sequence[str]) -> None:
        """Add masked lines of the client."""
        self._show(lines)
        for line in self._limiter.offer(lines, asyncio.get_running_loop().time()):
            self._emit(line)
        self._later()

    def recall(self, lines: Sequence[str]) -> None:
        """Add masked lines that an earlier daemon has already logged: shown, but not emitted again."""
        self._ring.extend(lines)

    def skipped(self, size: int) -> None:
        """Count bytes of output that were not read."""
        self._show([f"[{size} bytes skipped: the client writes faster than it can be read]"])
        self._limiter.skip(size)
        self._later()

    def note(self, text: str) -> None:
        """Add a remark of the daemon about the client."""
        self._show([f"[{text}]"])
        self._emit(text)

    def flush(self) -> None:
        """Emit the summary of suppressed lines now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for line in self._limiter.flush():
            self._emit(line)

    def tail(self, count: int) -> list[str]:
        """The last lines, oldest first."""
        return list(self._ring)[-count:] if count > 0 else []

    async def follow(self) -> AsyncIterator[str]:
        """Lines as they come, until the log is closed. A reader that is too slow gets the number of missed
        lines instead.
        """
        view = _View()
        self._views.add(view)
        try:
            async for line in view.read():
                yield line
        finally:
            self._views.discard(view)

    def close(self) -> None:
        """End every live view."""
        self.flush()
        for view in self._views:
            view.close()

    def _show(self, lines: Sequence[str]) -> None:
        self._ring.extend(lines)
        for view in self._views:
            view.extend(lines)

    def _later(self) -> None:
        if self._timer is None and self._limiter.pending:
            self._timer = asyncio.get_running_loop().call_later(SUMMARY_SECONDS, self.flush)
