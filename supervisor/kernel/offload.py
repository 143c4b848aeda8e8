"""Where ten thousand destinations are worked on: in a thread, so that the loop goes on with everything
else meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

MANY = 2_000  # items that take some milliseconds

Arguments = ParamSpec("Arguments")
ResultT = TypeVar("ResultT")


async def apart(
    count: int, work: Callable[Arguments, ResultT], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> ResultT:
    """The result of work on that many items; the work is on values that nobody changes."""
    if count < MANY:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)
