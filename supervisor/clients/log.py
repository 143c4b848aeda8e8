"""What people see of a client's output: the last lines, a live view, and a thin stream into the daemon's
own log. Already masked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

from supervisor.clients.lines import LineLimiter

RING = 200  # lines kept per tunnel
BEHIND = 1000  # lines that a slow reader of `follow` may be behind
SUMMARY_AFTER = 10.0  # seconds until suppressed lines are summed up


class _View:
    """One reader of `follow`."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=BEHIND)
        self._dropped = 0
        self._news = asyncio.Event()
        self._closed = False

    def extend(self, lines: Sequence[str]) -> None:
        self._dropped += max(0, len(self._lines) + len(lines) - BEHIND)
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
    """One tunnel's lines, over all its sessions. `emit` takes what may go into the daemon's log."""

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._emit = emit
        self._ring: deque[str] = deque(maxlen=RING)
        self._limiter = LineLimiter()
        self._views: set[_View] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, lines: Sequence[str]) -> None:
        """Lines of the client, masked."""
        self._show(lines)
        for line in self._limiter.offer(lines, asyncio.get_running_loop().time()):
            self._emit(line)
        self._later()

    def recall(self, lines: Sequence[str]) -> None:
        """Lines of the client that an earlier daemon has logged, masked: to be shown, and not said again."""
        self._ring.extend(lines)

    def skipped(self, size: int) -> None:
        """So many bytes of output were never looked at."""
        self._show([f"[{size} bytes skipped: the client writes faster than it can be read]"])
        self._limiter.skip(size)
        self._later()

    def note(self, text: str) -> None:
        """Something that the daemon itself has to say about the client."""
        self._show([f"[{text}]"])
        self._emit(text)

    def flush(self) -> None:
        """Sum up what was suppressed, now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for line in self._limiter.flush():
            self._emit(line)

    def tail(self, count: int) -> list[str]:
        """The last lines, oldest first."""
        return list(self._ring)[-count:] if count > 0 else []

    async def follow(self) -> AsyncIterator[str]:
        """Lines as they come; ends when the log is closed. A reader that is too slow is told how many
        lines it missed.
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
            self._timer = asyncio.get_running_loop().call_later(SUMMARY_AFTER, self.flush)
