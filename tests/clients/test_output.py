"""A client may write whatever it likes, as fast as it likes: the disk stays bounded and the loop stays
quick.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

from supervisor.core.events import ClientSaid, Exited, Spawned
from tests.clients.scripted import RunnerBench, shell, until

pytestmark = pytest.mark.slow

MEGABYTE = 1_000_000
LINE = "this line has one hundred characters, as a client in trouble would write it again and again and again"
WRITER = f"for n in range(1000000): print(n % 1000, '{LINE}')"  # about 100 MB, at the rate of a real program
FLOODS = {
    "lines": f'{sys.executable} -c "{WRITER}"; echo up',
    "binary junk": "head -c 30000000 /dev/urandom; echo; echo up",
    "lines of 1 MB": "for i in 1 2 3 4 5 6 7 8 9 10; do head -c 1000000 /dev/zero | tr '\\0' x; echo; "
    "done; echo up",
}


class LoopPulse:
    """Measures how long the loop was busy with something else, and how large the files got meanwhile."""

    def __init__(self, directory: Path) -> None:
        self.worst = 0.0
        self.largest = 0
        self._directory = directory
        self._task = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            self.worst = max(self.worst, time.perf_counter() - began - 0.001)
            self.largest = max(
                self.largest, sum(_size(self._directory / f"output.log{end}") for end in ("", ".1", ".new"))
            )

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


async def beside(script: str, directory: Path) -> float:
    """What the shared machine alone costs a loop that does nothing, while this floods a plain file."""
    pulse = LoopPulse(directory)
    with (directory / "control").open("wb") as file:
        process = await asyncio.create_subprocess_exec("/bin/sh", "-c", script, stdout=file)
        await process.wait()
    await pulse.stop()
    return pulse.worst


async def flood(bench: RunnerBench, script: str, session: int) -> LoopPulse | None:
    """Run a flooding client to its end, which must be told although it stands behind the flood.

    None: the machine was so busy that the client reached the hard bound of its file before the loop had its
    turn, and lost words.
    """
    pulse = LoopPulse(bench.directory())
    bench.runner.spawn(shell(script), session)
    await bench.next(Spawned)
    said = await bench.next(ClientSaid | Exited)
    if isinstance(said, ClientSaid):
        assert await bench.ended() == Exited("acme", session, code=0)
    await pulse.stop()
    return pulse if isinstance(said, ClientSaid) else None


@pytest.mark.parametrize("what", FLOODS)
async def test_flood(tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with RunnerBench(tmp_path) as bench:
        pulses: list[LoopPulse] = []
        for attempt in range(1, 6):  # the machine is shared
            pulse = await flood(bench, FLOODS[what], attempt)
            pulses += [] if pulse is None else [pulse]
            if any(p.worst < 0.05 and p.largest <= 20 * MEGABYTE for p in pulses):
                break
        assert pulses, "the last words are heard"
        with capsys.disabled():
            print(
                f"\n{what}: "
                + ", ".join(
                    f"stall {p.worst * 1000:.0f} ms, disk {p.largest / MEGABYTE:.1f} MB" for p in pulses
                )
            )
        stall = min(p.worst for p in pulses)
        assert stall < 0.05 or stall < 0.05 + await beside(FLOODS[what], tmp_path)
        assert min(p.largest for p in pulses) <= 20 * MEGABYTE
        assert len(bench.runner.tail("acme", 1000)) <= 200
        assert len(bench.logged) < 130 * len(pulses) + 20 * 60


async def test_what_a_flood_costs_is_said(tmp_path: Path) -> None:
    async with RunnerBench(tmp_path) as bench:
        await flood(bench, "seq 1 5000000; echo up", 1)
        assert any("lines suppressed" in line for line in bench.lines())
        assert any("bytes skipped" in line for line in bench.lines())
        assert bench.runner.tail("acme", 1) == ["up"]


async def test_the_end_is_told_in_time_although_a_flood_is_unread(tmp_path: Path) -> None:
    async with RunnerBench(tmp_path) as bench:
        bench.runner.spawn(shell("while :; do yes | head -c 3000000; done"), 1)
        await bench.next(Spawned)
        await until(lambda: bool(bench.lines()))
        began = time.monotonic()
        bench.runner.kill("acme", 1)
        await bench.next(Exited)
        assert time.monotonic() - began < 20


async def test_a_quiet_client_fills_no_disk_either(tmp_path: Path) -> None:
    """The file is cut when everything is read, and nothing is lost."""
    async with RunnerBench(tmp_path) as bench:
        script = (
            f"for i in 1 2 3 4 5 6 7 8; do yes '{LINE}' | head -c 1000000; echo; echo part $i; sleep "
            f"0.1; done"
        )
        bench.runner.spawn(shell(script), 1)
        await bench.next(Spawned)
        await bench.next(Exited)
        assert _size(bench.directory() / "output.log") < 4 << 20
        assert 0 < _size(bench.directory() / "output.log.1") <= 3 << 20


async def test_follow_sees_lines_of_all_sessions_until_the_end(tmp_path: Path) -> None:
    seen: list[str] = []

    async def reader(bench: RunnerBench) -> None:
        async for line in bench.runner.follow("acme"):
            seen.append(line)

    async with RunnerBench(tmp_path) as bench:
        task = asyncio.create_task(reader(bench))
        await asyncio.sleep(0)
        for session in (1, 2):
            bench.runner.spawn(shell(f"echo session {session}"), session)
            await bench.next(Spawned)
            await bench.next(Exited)
    await asyncio.wait_for(task, 60)
    assert seen == ["session 1", "session 2"]


async def test_tail_of_an_unknown_tunnel_is_empty(tmp_path: Path) -> None:
    async with RunnerBench(tmp_path) as bench:
        assert bench.runner.tail("nobody", 10) == []


async def test_somebody_empties_the_file(tmp_path: Path) -> None:
    async with RunnerBench(tmp_path) as bench:
        bench.runner.spawn(
            shell(
                "echo a longer first line; while ! test -e {directory}/go; do sleep 0.02; done; echo second"
            ),
            1,
        )
        await bench.next(Spawned)
        await until(lambda: bench.lines() == ["a longer first line"])
        (bench.directory() / "output.log").write_text("")
        (bench.directory() / "go").touch()
        await bench.next(Exited)
        assert bench.lines() == ["a longer first line", "second"]
