"""What outlives the daemon: the journal, and the end of what a crashed daemon left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.clients import processes
from supervisor.clients.process_journal import Journal, JournalEntry
from supervisor.clients.sweep import leftovers, still_runs, sweep
from supervisor.core.events import Exited, Spawned
from tests.clients.scripted import RunnerBench, alive, shell, tagged, until

DAEMON = """
import asyncio, sys
from pathlib import Path
from supervisor.core.events import Spawned
from tests.clients.scripted import RunnerBench, shell

async def main():
    bench = RunnerBench(Path(sys.argv[1]))
    bench.runner.start()
    bench.runner.spawn(shell("(setsid sleep 1000 &) ; sleep 1000 & trap '' TERM; while :; do sleep 0.1; done", name="stubborn"), 1)
    bench.runner.spawn(shell("exec sleep 1000", name="meek"), 1)
    bench.runner.spawn(shell("(setsid setsid sleep 1000 &); exec sleep 1000", name="gone"), 1)
    spawned = [await bench.next(Spawned) for _ in range(3)]
    print(*(one.pid for one in spawned), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""

ENTRY = JournalEntry("acme", 1, "abc", 4711, 99, "boot", device="t-acme", lane=173_001)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.update(ENTRY)
    journal.update(replace(ENTRY, tunnel="other", port=17300))
    journal.update(replace(ENTRY, session=2))
    assert Journal(tmp_path).load() == {
        "acme": replace(ENTRY, session=2),
        "other": replace(ENTRY, tunnel="other", port=17300),
    }
    journal.remove("acme")
    journal.remove("acme")
    assert list(Journal(tmp_path).load()) == ["other"]
    assert (tmp_path / "journal" / "other.json").stat().st_mode & 0o777 == 0o600
    journal.clear()
    journal.clear()
    assert Journal(tmp_path).load() == {}
    assert list(tmp_path.iterdir()) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.one_of(st.binary(max_size=80), st.integers(0, 400)))
def test_a_torn_or_foreign_file_is_no_trouble(tmp_path: Path, data: bytes | int) -> None:
    journal = Journal(tmp_path)
    journal.update(ENTRY)
    path = tmp_path / "journal" / "acme.json"
    path.write_bytes(path.read_bytes()[:data] if isinstance(data, int) else data)
    assert set(Journal(tmp_path).load()) <= {"acme"}


@pytest.mark.parametrize(
    "content",
    [None, 7, [], {}, {"version": 1}, {"pid": 1}]
    + [{**asdict(ENTRY), **wrong} for wrong in ({"pid": 1}, {"pid": "4711"}, {"tunnel": 7}, {"more": 1}, {"boot": None},
       {"pid": 10**400}, {"pid": 2**22 + 1}, {"pid": True}, {"start": 10**400}, {"start": -1}, {"session": 10**400}, {"slot": -1},
       {"lane": "1"}, {"lane": 10**400}, {"port": [1]}, {"device": 7}, {"management": "a\0b"}, {"key": 7}, {"kind": None})],
)  # fmt: skip
def test_foreign_json(tmp_path: Path, content: object) -> None:
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "acme.json").write_text(json.dumps(content))
    (tmp_path / "journal" / "other.new").write_text(json.dumps(asdict(ENTRY)))  # never finished
    assert Journal(tmp_path).load() == {}


def test_a_pid_that_was_used_again_is_not_ours(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "1000"]) as sleep:
        known = processes.stat(sleep.pid)
        assert known is not None
        entry = JournalEntry("acme", 1, "abc", sleep.pid, known.start, processes.boot_id())
        assert still_runs(entry)
        journal = Journal(tmp_path)
        for wrong in (
            replace(entry, start=known.start - 1),
            replace(entry, boot="another boot"),
            replace(entry, pid=2**22 - 1),
        ):
            assert not still_runs(wrong)
            journal.update(wrong)
            assert leftovers(journal) == []
        assert asyncio.run(sweep(journal)) == []
        assert sleep.poll() is None
        sleep.kill()


@pytest.mark.slow
async def test_after_the_daemon_was_killed(tmp_path: Path) -> None:
    """Every process of it is found and ended: a stubborn tree, and strays of a client that died in
    between.
    """
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as daemon:
        assert daemon.stdout is not None
        stubborn, meek, gone = map(int, daemon.stdout.readline().split())
        await until(lambda: len(tagged(tmp_path)) >= 6)
        daemon.kill()
    os.kill(gone, signal.SIGKILL)
    await until(lambda: not alive(gone))
    assert alive(stubborn)
    assert alive(meek)

    done = await sweep(Journal(tmp_path), grace=0.3)

    assert {tunnel for tunnel, _ in done} == {"stubborn", "meek", "gone"}
    assert tagged(tmp_path) == []
    assert Journal(tmp_path).load() == {}
    assert await sweep(Journal(tmp_path)) == []


async def test_tags_alone_are_enough(tmp_path: Path) -> None:
    environment = {"FACILITATOR_CLIENT": f"{tmp_path}/acme/abc"}
    foreign = {
        "FACILITATOR_CLIENT": f"{tmp_path}/inner/acme/abc"
    }  # another daemon, whose runtime_dir lies in ours
    with (
        subprocess.Popen(["sleep", "1000"], env=environment) as ours,
        subprocess.Popen(["sleep", "1000"], env=foreign) as theirs,
    ):
        (tmp_path / "journal").mkdir()
        (tmp_path / "journal" / "acme.json").write_text("torn")
        assert await sweep(Journal(tmp_path)) == [("acme", ours.pid)]
        assert ours.wait() == -signal.SIGTERM
        assert theirs.poll() is None
        theirs.kill()


async def test_the_journal_follows_the_clients(tmp_path: Path) -> None:
    async with RunnerBench(tmp_path, lane_of={"acme": 173_001}.get) as bench:
        bench.runner.spawn(shell("exec sleep 1000", management=True), 5)
        spawned = await bench.next(Spawned)
        known = processes.stat(spawned.pid)
        assert known is not None
        entry = Journal(tmp_path).load()["acme"]
        management = str(bench.directory() / "management.sock")
        boot = processes.boot_id()
        assert entry == JournalEntry(
            "acme",
            5,
            spawned.id,
            spawned.pid,
            known.start,
            boot,
            "t-acme",
            None,
            173_001,
            management,
            kind="scripted",
            output=0,
        )
        bench.runner.terminate("acme", 5)
        await bench.next(Exited)
        assert Journal(tmp_path).load() == {}
