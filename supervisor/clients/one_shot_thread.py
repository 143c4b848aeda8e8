"""Work in a thread of its own, for what changes the thread that does it for good."""

from __future__ import annotations

# a client's start waits for it; threading.Thread hands over twice as often, which a busy machine makes
# milliseconds
import _thread
from collections.abc import Callable
from subprocess import SubprocessError
from typing import TypeVar

Result = TypeVar("Result")


def apart(work: Callable[[], Result]) -> Result:
    """The result of `work`, or its OSError, ValueError or SubprocessError, from a thread that nobody uses
    before or after.
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
