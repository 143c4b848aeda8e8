"""Owns the cloud's routes of the destinations that work here: one lock for each, and a program that keeps the
routes of those that are held (`supervisor.fleet.aws_program`).

    destinations that work --> locks routes/NETWORK --> those that we hold --> the program --> EC2 API

An engine that is away moves nothing: the owner stays, until its lease is known to be over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from supervisor.fleet.following import watched
from supervisor.fleet.lock_service import LockService, LockServiceAway

RESTART_SECONDS = 1.0  # after the program has ended
MAX_LINE_BYTES = 4 << 20  # of the program: all routes of large tables may be wrong at once
_MODULE = "supervisor.fleet.aws_program"


@dataclass(frozen=True, slots=True)
class RouteSettings:
    """What the program is told first."""

    tables: tuple[str, ...]
    interface: str
    endpoint: str | None = None
    region: str | None = None
    environment: Mapping[str, str] | None = field(default=None)  # of the program; None: ours

    @property
    def line(self) -> str:
        """The first line of its stdin."""
        keys = ("tables", "interface", "endpoint", "region")
        return json.dumps({key: getattr(self, key) for key in keys})


class RouteOwner:
    """The locks, and the program."""

    def __init__(
        self,
        service: LockService,
        prefix: str,
        member: str,
        settings: RouteSettings,
        note: Callable[[], None],
    ) -> None:
        """`prefix`: of the locks' keys; `note` is called when `problem` changes."""
        self._service, self._prefix, self._member, self._settings = service, prefix, member, settings
        self._note = note
        self._wanted: frozenset[str] = frozenset()
        self._lease: str | None = None
        self._asked: set[str] = set()  # networks whose locks may be ours, also after an answer that was lost
        self._hint, self._changed = asyncio.Event(), asyncio.Event()
        self.held: frozenset[str] = frozenset()  # networks
        self.problem: str | None = None  # what the program says is wrong

    def set(self, networks: Collection[str]) -> None:
        """The destinations that work here."""
        if frozenset(networks) != self._wanted:
            self._wanted = frozenset(networks)
            self._hint.set()

    async def follow(self) -> None:
        """Hold the locks of what works here, and of nothing else."""
        watching = asyncio.create_task(watched(self._service, self._prefix, self._freed))
        try:
            while True:
                self._hint.clear()
                with contextlib.suppress(LockServiceAway):
                    await self._round()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._service.ttl / 3):
                        await self._hint.wait()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def keep(self) -> None:
        """Run the program, again when it has ended."""
        while True:
            await self._program()
            await asyncio.sleep(RESTART_SECONDS)

    async def end(self) -> None:
        """Give the locks up: another member takes the routes over."""
        lease, self._lease = self._lease, None
        if lease is not None:
            with contextlib.suppress(LockServiceAway):
                await self._service.revoke(lease)

    async def _round(self) -> None:
        if self._lease is not None and not await self._service.renew(self._lease):
            self._lease = None
            self._asked.clear()
            self._hold(frozenset())
        if self._lease is None and self._wanted:
            self._lease = (await self._service.open_lease()).id
        if self._lease is None:
            return
        for network in sorted(self._asked - self._wanted):
            self._hold(self.held - {network})
            await self._service.release(self._key(network), self._lease)
            self._asked.discard(network)
        for network in sorted(self._wanted - self.held):
            self._asked.add(network)
            if (await self._service.acquire(self._key(network), self._member, self._lease)).held:
                self._hold(self.held | {network})

    def _freed(self) -> None:
        """Perhaps: some lock has changed."""
        if self._wanted - self.held:
            self._hint.set()

    def _hold(self, networks: frozenset[str]) -> None:
        self.held = networks
        self._changed.set()

    def _key(self, network: str) -> str:
        return self._prefix + network.replace("/", "_")

    async def _program(self) -> None:
        argv = (sys.executable, "-I", "-m", _MODULE)
        program = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MAX_LINE_BYTES,
            env=self._settings.environment,
        )
        assert program.stdin is not None
        assert program.stdout is not None
        telling = asyncio.create_task(self._tell(program.stdin))
        try:
            async for line in program.stdout:
                self._said(json.loads(line)["problem"])
            self._said("the program that keeps the routes has ended")
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            program.stdin.close()
            with contextlib.suppress(ProcessLookupError):
                program.kill()
            await program.wait()

    async def _tell(self, stdin: asyncio.StreamWriter) -> None:
        stdin.write(f"{self._settings.line}\n".encode())
        while True:
            self._changed.clear()
            stdin.write(f"{json.dumps({'networks': sorted(self.held)})}\n".encode())
            await stdin.drain()
            await self._changed.wait()

    def _said(self, problem: str | None) -> None:
        if problem != self.problem:
            self.problem = problem
            self._note()
