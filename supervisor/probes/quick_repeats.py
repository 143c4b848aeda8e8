"""Repeats of a probe that is not answered at once, while its round goes on: whether the flows of a session
should go elsewhere.

A round decides about the session, and may take its time. Flows that can go through another tunnel, or
through another member of the fleet, need not wait for that: where a round and its repeats are unanswered for
`SUSPICION_SECONDS`, the session is suspected. So many repeats fit into that time that a tunnel which loses
each fifth packet is not suspected in weeks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

SUSPICION_SECONDS = 1.0  # without any answer
FIRST_REPEAT_SECONDS = 0.2  # after the beginning of a round
REPEAT_SECONDS = 0.1  # between two repeats after that

Ask = Callable[[float], Awaitable[bool]]  # within so many seconds: is it answered?


class QuickRepeats:
    """Those of one session, round by round."""

    def __init__(self, ask: Ask, passes: Callable[[], Awaitable[bool]], suspect: Callable[[], None]) -> None:
        """`ask` sends another probe to each target; `passes`: whether users' packets came back since it was
        asked before; `suspect` is called when nothing answers.
        """
        self._ask, self._passes, self._suspect = ask, passes, suspect
        self._task: asyncio.Task[None] | None = None
        self._answer = asyncio.Event()
        self._asked: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """A round begins. One that follows unanswered ones belongs to them."""
        if self._task is None:
            self._answer.clear()
            self._task = asyncio.create_task(self._watch(), name="quick repeats")

    @property
    def answered(self) -> bool:
        """A repeat of the present round was answered."""
        return self._answer.is_set()

    def end(self) -> None:
        """The round was answered, or no session is left."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        for task in self._asked:
            task.cancel()
        self._asked.clear()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        end, pause = loop.time() + SUSPICION_SECONDS, FIRST_REPEAT_SECONDS
        while not await self._answered_within(min(pause, end - loop.time())):
            left, first = end - loop.time(), pause == FIRST_REPEAT_SECONDS
            if left <= 0.0:
                if not await self._passes():
                    self._suspect()
                return
            if first:
                await self._passes()  # what came back until now does not count
            pause = REPEAT_SECONDS
            task = asyncio.create_task(self._repeat(left))
            self._asked.add(task)
            task.add_done_callback(self._asked.discard)

    async def _answered_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._answer.wait()
        except TimeoutError:
            return False
        return True

    async def _repeat(self, seconds: float) -> None:
        if await self._ask(seconds):
            self._answer.set()
