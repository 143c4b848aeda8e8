"""The daemon as it is, whose event loop somebody watches: `python -m tests.bench.audited CONFIG LAG`; see
`tests.bench.scraped` for LAG.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from supervisor.app import run
from tests.bench.scraped import watch


class LoopWatch(asyncio.DefaultEventLoopPolicy):
    """Each loop keeps its worst delay in a file."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """One with a watcher."""
        loop = super().new_event_loop()
        loop.call_soon(self._begin, loop)
        return loop

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._watching = loop.create_task(watch(Path(sys.argv[2])))


if __name__ == "__main__":
    asyncio.set_event_loop_policy(LoopWatch())
    sys.exit(run(Path(sys.argv[1])))
