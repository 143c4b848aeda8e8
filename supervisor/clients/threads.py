"""Work in a thread of its own, for what changes the thread that does it for good."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def apart(work: Callable[[], Result]) -> Result:
    """The result of `work`, or its exception, from a thread that has ended."""
    results: list[Result] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:      # belongs to whoever waits for us
            errors.append(error)

    thread = threading.Thread(target=run, name="apart")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
