"""Closes the parts of the daemon: each registers its close when it is made, and the last one made closes
first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

Close = Callable[[], Awaitable[object] | None]


class Closing:
    """What is open, in the order in which it was made. One close that raises does not prevent the others."""

    def __init__(self) -> None:
        self._open: list[tuple[str, Close]] = []

    def add(self, part: str, close: Close) -> None:
        """Register a close: a plain function, or a coroutine function."""
        self._open.append((part, close))

    @property
    def open(self) -> tuple[tuple[str, Close], ...]:
        """Part and close of each, in the order in which they were made."""
        return tuple(self._open)

    async def close(self) -> Exception | None:
        """Close everything, the last one made first. Each error is logged; the first one is returned."""
        errors = []
        while self._open:
            part, close = self._open.pop()
            try:
                closing = close()
                if closing is not None:
                    await closing
            except Exception as error:
                structlog.get_logger().error("a part could not be closed", part=part, error=repr(error))
                errors.append(error)
        return next(iter(errors), None)
