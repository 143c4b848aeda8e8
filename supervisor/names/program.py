"""The process of the name service: `main` is what the daemon starts. It goes on when the daemon crashes, with
what it was told last, and belongs to whichever daemon connects next.

    daemon -> KEY, then lines of JSON: state | tunnels | look_up | end
    -> hello (once), report (after each state, and every REPORT_SECONDS if it has changed), found
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.plain import from_plain
from supervisor.core.names.values import AskingRules, NameServiceState, NamesOfTunnel
from supervisor.names.resolver import NameResolver
from supervisor.names.serving import Listeners
from supervisor.names.wire import wire_name

SOCKET, KEY = "control.sock", "key"  # files in the directory of the process
REPORT_SECONDS = 2.0
RETRY_SECONDS = 5.0  # until an address that could not be listened on is tried again
MAX_LINE = 16 << 20  # bytes: a state with a thousand tunnels


class NameProcess:
    """One run."""

    def __init__(self, directory: Path, version: str) -> None:
        self._directory, self._version = directory, version
        self._key = (directory / KEY).read_bytes().strip()
        self._resolver = NameResolver()
        self._listeners = Listeners(self._resolver.take)
        self._state = NameServiceState(AskingRules(()))
        self._daemon: asyncio.StreamWriter | None = None
        self._over = asyncio.Event()
        self._rates = [0.0, 0.0]  # questions and failures a second
        self._looking: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until it is told to end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._over.set)
        path = self._directory / SOCKET
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._connected, path, limit=MAX_LINE)
        tasks = [asyncio.create_task(each) for each in (self._report(), self._listen_again())]
        await self._over.wait()
        for task in tasks:
            task.cancel()
        server.close()
        self._listeners.close()
        path.unlink(missing_ok=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError, ValueError):
            key = await reader.readline()
            if hmac.compare_digest(key.strip(), self._key):
                if self._daemon is not None:
                    self._daemon.close()
                self._daemon = writer
                self._say({"hello": {"pid": os.getpid(), "version": self._version}})
                while line := await reader.readline():
                    await self._told(json.loads(line))
        if self._daemon is writer:
            self._daemon = None
        writer.close()

    async def _told(self, what: dict[str, Any]) -> None:
        if "end" in what:
            self._over.set()
        if "state" in what:
            await self._set(from_plain(NameServiceState, what["state"]))
            self._say(self._news())  # a daemon that adopts this process knows nothing of it
        if "tunnels" in what:
            tunnels = dict(self._state.tunnels)
            for name, row in what["tunnels"].items():
                tunnels.pop(name, None)
                if row is not None:
                    tunnels[name] = from_plain(NamesOfTunnel, row)
            await self._set(replace(self._state, tunnels=tunnels))
        if "look_up" in what:
            task = asyncio.create_task(self._look_up(*what["look_up"]))
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)

    async def _set(self, state: NameServiceState) -> None:
        listen, self._state = self._state.rules.listen, state
        self._resolver.set(state)
        if state.rules.listen != listen:
            await self._listeners.set(state.rules.listen)

    async def _look_up(self, number: int, name: str, kind: int) -> None:
        found = await self._resolver.look_up(wire_name(name), kind)
        self._say({"found": [number, found]})

    async def _report(self) -> None:
        before: object = None
        counted = (0, 0)
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            now = self._resolver.counters.totals
            since = [round((new - old) / REPORT_SECONDS, 1) for new, old in zip(now, counted, strict=True)]
            self._rates, counted = since, now
            news = self._news()
            if news != before:
                before = news
                self._say(news)

    async def _listen_again(self) -> None:
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            if self._listeners.problems:
                await self._listeners.set(self._state.rules.listen)

    def _news(self) -> dict[str, Any]:
        about = {"problems": self._listeners.problems, "per_second": self._rates}
        return {"report": self._resolver.counters.plain() | about}

    def _say(self, what: dict[str, Any]) -> None:
        if self._daemon is not None and not self._daemon.is_closing():
            self._daemon.write(json.dumps(what).encode() + b"\n")


def main() -> None:
    """The program: its arguments are its directory, and the version of the daemon that starts it."""
    asyncio.run(NameProcess(Path(sys.argv[1]), sys.argv[2]).run())
