"""The name service, as the daemon sees it: a process of its own, which is started when names are wanted, told
what changes, asked what it does, and adopted when an earlier daemon has left it running.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

from common.plain import plain
from supervisor.clients import name_process
from supervisor.clients.cgroup import ClientGroup
from supervisor.clients.reaper import Reaper
from supervisor.core.conditions import Condition
from supervisor.core.events import Event, Noticed
from supervisor.core.names.values import NameServiceState, NamesOfTunnel
from supervisor.core.names.wanted import admitted, asking_rules, by_person, names_of
from supervisor.core.network.admission import NOBODY_KNOWN, KnownPeople
from supervisor.core.network.compose import Scope
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import TunnelState
from supervisor.core.views.documents import NameServiceEntry
from supervisor.version import version
from tunnels.networks import IPNetwork
from tunnels.settings import Tunnel

CONDITION = "names"
START_SECONDS = 10.0  # for a new process to listen
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0  # seconds until it is started again
LOOK_UP_SECONDS = 8.0
END_SECONDS = 2.0
RULES_SECONDS = 30.0  # until rules about people are looked at again: the last day of one may be over
_MAX_LINE = 1 << 22

Row = tuple[Tunnel, TunnelState, int, NamesOfTunnel]


class NameServiceProcess:
    """The `Names` and `Watcher` (`supervisor.outputs`) that keeps the process as it should be."""

    def __init__(
        self,
        runtime_dir: Path,
        reaper: Reaper,
        group: ClientGroup | None,
        wall_offset: float,
        post: Callable[[Event], None],
    ) -> None:
        self._runtime_dir, self._reaper, self._group = runtime_dir, reaper, group
        self._directory = runtime_dir / name_process.DIRECTORY
        self._wall_offset, self._post = wall_offset, post
        self._wanted: NameServiceState | None = None
        self._rows: dict[str, Row] = {}
        self._segments: object = None
        self._last: tuple[Scope, Snapshot, Mapping[str, int]] | None = None
        self._people = NOBODY_KNOWN
        self._admitted: dict[str, tuple[Tunnel, float, tuple[IPNetwork, ...]]] = {}  # and when it was judged
        self._changed = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._told: NameServiceState | None = None
        self._looking: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count()
        self._pid: int | None = None
        self._ending = False
        self.report: Mapping[str, Any] = {}  # what the process has counted: `names.counters`
        self.conditions: Mapping[str, Condition] = {}

    # --- what is wanted

    def set(self, scope: Scope, snapshot: Snapshot, lanes: Mapping[str, int]) -> None:
        """From now on this is wanted; returns at once."""
        self._last = (scope, snapshot, lanes)
        rules = asking_rules(scope)
        wanted = None
        if rules is not None and not self._ending:
            wanted = NameServiceState(rules, self._tunnels(scope, snapshot, lanes))
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()
            self._tell()

    def _tunnels(
        self, scope: Scope, snapshot: Snapshot, lanes: Mapping[str, int]
    ) -> dict[str, NamesOfTunnel]:
        """Those with names; what has not changed is one and the same object."""
        if self._segments is not scope.segments:
            self._segments, self._rows = scope.segments, {}
        before, self._rows = self._rows, {}
        for name, (tunnel, state) in snapshot.tunnels.items():
            if tunnel.names is None:
                continue
            row = before.get(name)
            if row is None or row[0] is not tunnel or row[1] is not state or row[2] != lanes[name]:
                people = self._people_of(tunnel, snapshot.now)
                made = names_of(tunnel, state, lanes[name], scope.segments, self._wall_offset, people)
                known = made if row is None or row[3] != made else row[3]
                row = (tunnel, state, lanes[name], known)
            self._rows[name] = row
        return {name: row[3] for name, row in self._rows.items()}

    def know(self, people: KnownPeople) -> None:
        """These people have these addresses from now on, for `allow` by group and person."""
        self._people = people
        if any(by_person(row[0]) for row in self._rows.values()) and self._last is not None:
            self._rows, self._admitted = {}, {}
            self.set(*self._last)

    def _people_of(self, tunnel: Tunnel, now: float) -> tuple[IPNetwork, ...]:
        """Whom the rules about people let in; looked at again when somebody comes, and now and then, because
        rules end.
        """
        rules = by_person(tunnel)
        known = self._admitted.get(tunnel.name)
        if not rules:
            return ()
        if known is None or known[0] is not tunnel or now - known[1] > RULES_SECONDS:
            found = admitted(rules, self._people, now, now + self._wall_offset)
            known = self._admitted[tunnel.name] = (tunnel, now, found)
        return known[2]

    # --- what is told

    def _tell(self) -> None:
        """Send what has changed since the process was told last."""
        wanted, told = self._wanted, self._told
        if self._writer is None or wanted is None or wanted is told:
            return
        if told is None or told.rules != wanted.rules:
            self._send({"state": plain(wanted)})
        else:
            rows: dict[str, Any] = {name: None for name in told.tunnels.keys() - wanted.tunnels.keys()}
            for name, about in wanted.tunnels.items():
                if told.tunnels.get(name) != about:
                    rows[name] = plain(about)
            self._send({"tunnels": rows})
        self._told = wanted

    def _send(self, what: Mapping[str, Any]) -> None:
        if self._writer is not None:
            self._writer.write(json.dumps(what).encode() + b"\n")

    async def look_up(self, name: str, kind: int) -> Mapping[str, Any] | None:
        """What a name leads to (`names.resolver`); None: nobody answers."""
        if self._writer is None:
            return None
        number = next(self._numbers)
        answer = self._looking[number] = asyncio.get_running_loop().create_future()
        self._send({"look_up": [number, name, kind]})
        try:
            return await asyncio.wait_for(answer, LOOK_UP_SECONDS)
        except TimeoutError:
            return None
        finally:
            self._looking.pop(number, None)

    @property
    def status(self) -> NameServiceEntry | None:
        """For the status document."""
        if self._writer is None or not self.report:
            return None
        asked, failed = self.report["per_second"]
        return {"questions_per_second": asked, "failures_per_second": failed}

    # --- the process

    async def run(self) -> None:
        """For ever: connect to the process, or start it; listen to what it says."""
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE
        while True:
            self._changed.clear()
            if self._wanted is None:
                await self._end_process()
                self._say(None)
                await self._changed.wait()
                continue
            try:
                reader = await self._connect()
            except OSError as error:
                self._say(f"the name service does not start: {error}; {self._output()}")
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            began = loop.time()
            await self._listen(reader)
            if loop.time() - began > LONGEST_PAUSE:
                pause = FIRST_PAUSE
            elif self._wanted is not None:  # it ends again and again
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _connect(self) -> asyncio.StreamReader:
        """The process that runs, or a new one. OSError."""
        for attempt in ("adopted", "started"):
            if attempt == "started":
                await self._kill()
                self._pid = name_process.start(self._runtime_dir, self._reaper, self._group)
                await self._appears(self._directory / name_process.SOCKET)
            opened = await self._opened()
            if opened is None:
                continue
            reader, hello = opened
            if hello["version"] == version():
                self._pid = int(hello["pid"])
                self._reaper.add(self._pid)
                structlog.get_logger().info("names", process=attempt, pid=self._pid)
                self._told = None
                self._tell()
                return reader
            await self._end_process()  # an earlier version
        raise OSError("it does not answer")

    async def _opened(self) -> tuple[asyncio.StreamReader, Mapping[str, Any]] | None:
        """The connection to a process that runs; None: there is none."""
        try:
            key = (self._directory / name_process.KEY).read_bytes()
            reader, writer = await asyncio.open_unix_connection(
                self._directory / name_process.SOCKET, limit=_MAX_LINE
            )
        except OSError:
            return None
        with contextlib.suppress(OSError, ValueError, TimeoutError):
            writer.write(key.strip() + b"\n")
            async with asyncio.timeout(START_SECONDS):
                hello = json.loads(await reader.readline())["hello"]
            self._writer = writer
            return reader, hello
        writer.close()
        return None

    async def _appears(self, path: Path) -> None:
        """Wait until a new process listens. OSError: it has ended instead."""
        end = asyncio.get_running_loop().time() + START_SECONDS
        for pause in itertools.repeat(0.02):
            if path.exists():
                return
            if self._pid is not None and name_process.reaped(self._pid):
                self._reaper.discard(self._pid)
                self._pid = None
                raise OSError("it ended at once")
            if asyncio.get_running_loop().time() > end:
                raise OSError("it does not listen")
            await asyncio.sleep(pause)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Until the process ends, or is not wanted any more."""
        reading = asyncio.create_task(self._read(reader))
        try:
            while self._wanted is not None and not reading.done():
                self._changed.clear()
                changed = asyncio.create_task(self._changed.wait())
                await asyncio.wait({reading, changed}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
        finally:
            reading.cancel()
        if self._wanted is not None:
            self._disconnect()
            self._reap()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := await reader.readline():
                what = json.loads(line)
                if "report" in what:
                    self.report = what["report"]
                    self._say(_problem(self.report.get("problems", {})))
                if "found" in what:
                    number, found = what["found"]
                    if number in self._looking and not self._looking[number].done():
                        self._looking[number].set_result(found)

    def _say(self, text: str | None) -> None:
        before = self.conditions
        self.conditions = (
            {} if text is None else {CONDITION: Condition(text, look_further="ss -lnp sport = 53")}
        )
        if before != self.conditions:
            if text is not None:
                structlog.get_logger().error("names", text=text)
            self._post(Noticed(""))

    def _output(self) -> str:
        """The last line that the process has written."""
        with contextlib.suppress(OSError):
            path = self._directory / name_process.OUTPUT
            return path.read_text(errors="replace").strip().rpartition("\n")[2][-200:]
        return ""

    def _reap(self) -> None:
        if self._pid is not None and name_process.reaped(self._pid):
            self._reaper.discard(self._pid)
            self._pid = None

    # --- its end

    async def end(self) -> None:
        """End the process for good: the daemon ends, and so do the tunnels."""
        self._ending, self._wanted = True, None
        await self._end_process()
        self._changed.set()

    async def _end_process(self) -> None:
        if self._writer is None and await self._opened() is None:
            return
        self._send({"end": True})
        for pause in itertools.repeat(0.02, int(END_SECONDS / 0.02)):
            if not (self._directory / name_process.SOCKET).exists():
                break
            await asyncio.sleep(pause)
        await self._kill()
        self._disconnect()

    async def _kill(self) -> None:
        """Kill a process of ours that does not answer, or has not ended when it was told to."""
        self._reap()
        if self._pid is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self._pid, signal.SIGKILL)
        for pause in itertools.repeat(0.01, 100):
            self._reap()
            if self._pid is None:
                return
            await asyncio.sleep(pause)

    def _disconnect(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._told = None, None

    async def close(self) -> None:
        """Leave the process alone: the next daemon adopts it."""
        self._disconnect()


def _problem(problems: Mapping[str, str]) -> str | None:
    if not problems:
        return None
    listed = "; ".join(f"{address}: {why}" for address, why in problems.items())
    return f"names: staff get no answers, see names.listen ({listed})"


async def end_process(runtime_dir: Path) -> bool:
    """End the process that an earlier daemon has left, without a daemon; False: there is none."""
    directory = runtime_dir / name_process.DIRECTORY
    try:
        key = (directory / name_process.KEY).read_bytes()
        reader, writer = await asyncio.open_unix_connection(directory / name_process.SOCKET)
    except OSError:
        return False
    writer.write(key.strip() + b'\n{"end": true}\n')
    with contextlib.suppress(TimeoutError, OSError, ValueError):
        async with asyncio.timeout(END_SECONDS):
            while await reader.readline():
                pass
    writer.close()
    return True
