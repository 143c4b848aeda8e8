"""Runs work in a new thread, for work that changes its thread for good (sandboxes)."""

from __future__ import annotations

# a client's start waits for it; threading.Thread hands over twice as often, which a busy machine makes
# milliseconds
import _thread
from collections.abc import Callable
from subprocess import SubprocessError
from typing import TypeVar

Result = TypeVar("Result")


def apart(work: Callable[[], Result]) -> Result:
    """Run `work` in a new thread; returns its result, or raises its OSError, ValueError or
    SubprocessError.
    """
    results: list[Result] = []
    errors: list[Exception] = []
    over = _thread.allocate_lock()

    def run() -> None:
        try:
            results.append(work())
        except (OSError, ValueError, SubprocessError) as error:
            errors.append(error)
        finally:
            over.release()

    over.acquire()
    _thread.start_new_thread(run, ())
    over.acquire()
    for error in errors:
        raise error
    return results[0]
