"""The database as the service uses it: serialised writing transactions, and reading ones beside them.

A transaction is a function on a `Transaction`, run in a thread. Writing ones run one after the other, over
all processes, so that a reader of revisions never skips one that is committed late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

Row = dict[str, Any]
ResultT = TypeVar("ResultT")


class Unavailable(Exception):
    """The database cannot be reached or written. Whether the transaction has happened is not known."""


class Transaction(Protocol):
    """SQL with `?` for each parameter."""

    def rows(self, sql: str, *parameters: object) -> list[Row]:
        """Run a statement; its rows."""

    def column(self, sql: str, *parameters: object) -> list[Any]:
        """Run a statement; the only column of its rows. For thousands of them."""

    def many(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """Run a statement for each of these."""


class Connection(Protocol):
    """One connection to the database, used by one thread."""

    def transact(self, work: Callable[[Transaction], ResultT]) -> ResultT:
        """Run the function in a transaction. Unavailable."""

    def close(self) -> None:
        """Close it."""


class Database:
    """Two threads with a connection each: one for writing, one for long looks at the past."""

    def __init__(self, connect: Callable[[bool], Connection]) -> None:
        """`connect(writing)` is called in the thread that uses the connection, again after it was lost."""
        self._connect = connect
        self._threads = {
            writing: ThreadPoolExecutor(1, "store-writer" if writing else "store-reader")
            for writing in (True, False)
        }
        self._connections: dict[bool, Connection] = {}

    async def write(self, work: Callable[[Transaction], ResultT]) -> ResultT:
        """Run in a writing transaction. Unavailable."""
        return await self._run(True, work)

    async def read(self, work: Callable[[Transaction], ResultT]) -> ResultT:
        """Run in a reading transaction, which waits for no writer. Unavailable."""
        return await self._run(False, work)

    async def close(self) -> None:
        """End both threads after what they are doing."""
        for writing, thread in self._threads.items():
            await asyncio.get_running_loop().run_in_executor(thread, self._disconnect, writing)
            thread.shutdown()

    async def _run(self, writing: bool, work: Callable[[Transaction], ResultT]) -> ResultT:
        running = asyncio.get_running_loop().run_in_executor(
            self._threads[writing], self._transact, writing, work
        )
        return await asyncio.shield(running)  # a request that is given up ends no transaction half way

    def _transact(self, writing: bool, work: Callable[[Transaction], ResultT]) -> ResultT:
        if writing not in self._connections:
            self._connections[writing] = self._connect(writing)
        try:
            return self._connections[writing].transact(work)
        except Unavailable:
            self._disconnect(writing)
            raise

    def _disconnect(self, writing: bool) -> None:
        if writing in self._connections:
            self._connections.pop(writing).close()
