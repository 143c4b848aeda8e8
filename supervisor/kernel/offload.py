"""Runs work on thousands of items in a thread, so that the event loop goes on with everything
else meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

MANY_ITEMS = 2_000  # items that take some milliseconds

Arguments = ParamSpec("Arguments")
ResultT = TypeVar("ResultT")


async def run_offloaded(
    count: int, work: Callable[Arguments, ResultT], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> ResultT:
    """The result of work on that many items, which nobody changes meanwhile: few are worked on at once, many
    in a thread.
    """
    if count < MANY_ITEMS:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)
