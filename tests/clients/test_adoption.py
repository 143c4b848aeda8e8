"""Clients of a daemon that was killed, gone on with by another runner: what they said meanwhile, what they
are told, and how they end.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from common.plain import plain
from supervisor.clients import processes
from supervisor.clients.adoption import FoundClient, living
from supervisor.clients.launch import SpawnError
from supervisor.clients.process_journal import Journal, JournalEntry
from supervisor.core.events import ClientSaid, Exited
from tests.clients.scripted import RunnerBench, Scripted, alive, shell, until
from tunnels.base import Connected

DAEMON = """
import asyncio, json, sys
from pathlib import Path
from common.plain import from_plain
from supervisor.core.events import Spawned
from tests.clients.scripted import RunnerBench, Scripted

async def main():
    bench = RunnerBench(Path(sys.argv[1]))
    bench.runner.start()
    bench.runner.spawn(from_plain(Scripted, json.loads(sys.argv[2]), complete=False), 3)
    await bench.next(Spawned)
    print("spawned", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""

# Counts up to a number as soon as somebody has written it into the file.
COUNTER = """
n=0; trap 'exit 7' TERM
while :; do
    read -r until 2>/dev/null <goal || until=0
    while [ $n -lt $until ]; do n=$((n + 1)); echo "line $n"; done
    sleep 0.01
done
"""

TALKER = """
import socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind("management.sock")
server.listen()
while True:
    try:
        with server.accept()[0].makefile("rw") as daemon:
            print("up", file=daemon, flush=True)
            for line in daemon:
                print("told:", line.strip(), flush=True)
    except OSError:     # killed before it had read everything
        pass
"""


NOTIFIER = """
import os, socket, time
while not os.path.exists("goal"):
    time.sleep(0.01)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
    speaker.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
time.sleep(1000)
"""


@contextmanager
def killed(runtime_dir: Path, client: Scripted) -> Iterator[None]:
    """A daemon that has started the client, is killed at the end of the context, and leaves it."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd()}
    argv = [sys.executable, "-c", DAEMON, str(runtime_dir), json.dumps(plain(client, sparse=True))]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "spawned\n"
        yield
        daemon.kill()


def goal(runtime_dir: Path, number: int) -> None:
    """Let the counter go on; the file is replaced, because it is read at any moment."""
    draft = runtime_dir / "draft"
    draft.write_text(f"{number}\n")
    draft.replace(runtime_dir / "clients" / "acme" / "goal")


def found(runtime_dir: Path) -> FoundClient:
    [one] = living(Journal(runtime_dir).load().values())
    return one


async def count_through_a_crash(runtime_dir: Path) -> None:
    log = runtime_dir / "clients" / "acme" / "output.log"
    with killed(runtime_dir, shell(COUNTER)):
        goal(runtime_dir, 5)
        await until(lambda: "line 5\n" in log.read_text())
        read = runtime_dir / "clients" / "acme" / "output.read"
        await until(lambda: int.from_bytes(read.read_bytes(), "little") == log.stat().st_size)
    goal(runtime_dir, 9)
    await until(lambda: "line 9\n" in log.read_text())


async def test_its_output_is_read_on_without_a_gap_and_its_end_is_noticed(tmp_path: Path) -> None:
    await count_through_a_crash(tmp_path)
    async with RunnerBench(tmp_path) as bench:
        one = found(tmp_path)
        bench.runner.adopt(shell(COUNTER), one, starting=False)
        os.close(one.pidfd)
        await until(lambda: "line 9" in bench.lines())
        assert bench.lines() == [f"line {n}" for n in range(6, 10)], "each line is heard once"
        assert bench.runner.tail("acme", 50) == [f"line {n}" for n in range(1, 10)], "and all are shown"
        bench.runner.terminate("acme", 3)
        ended = await bench.next(Exited)
        assert (ended.session, ended.code) in ((3, 7), (3, None)), (
            "its code is known if its parent has reaped it by now"
        )
        assert not alive(one.entry.pid)
        assert Journal(tmp_path).load() == {}


@pytest.mark.parametrize("before", [True, False], ids=["an earlier session", "the first session"])
async def test_what_a_starting_client_has_said_is_heard_again(tmp_path: Path, before: bool) -> None:
    """The daemon may be killed after it has read that the client is up, and before its state says so."""
    directory = tmp_path / "clients" / "acme"
    directory.mkdir(parents=True)
    if before:
        (directory / "output.log").write_text("fail of an earlier session\n")
    client = shell("echo hello; echo up; exec sleep 1000")
    with killed(tmp_path, client):
        log, read = directory / "output.log", directory / "output.read"
        await until(lambda: log.exists() and log.read_text().endswith("up\n"))
        await until(lambda: int.from_bytes(read.read_bytes(), "little") == log.stat().st_size)
    async with RunnerBench(tmp_path) as bench:
        one = found(tmp_path)
        bench.runner.adopt(client, one, starting=True)
        os.close(one.pidfd)
        assert await bench.next(ClientSaid) == ClientSaid("acme", 3, Connected(address="10.0.0.2"))
        shown = ["fail of an earlier session"] if before else []
        await until(lambda: bench.runner.tail("acme", 50) == [*shown, "hello", "up"])


async def test_what_it_has_left_is_ended_with_it(tmp_path: Path) -> None:
    script = "(setsid setsid sleep 1000 & echo $! >stray); exec sleep 1000"
    with killed(tmp_path, shell(script)):
        stray = tmp_path / "clients" / "acme" / "stray"
        await until(lambda: stray.exists() and bool(stray.read_text()))
    async with RunnerBench(tmp_path) as bench:
        one = found(tmp_path)
        bench.runner.adopt(shell(script), one, starting=False)
        os.close(one.pidfd)
        tagged = [
            pid for pid in processes.all_pids() if processes.tag_of(pid) == f"{tmp_path}/acme/{one.entry.id}"
        ]
        assert len(tagged) >= 2
        os.kill(one.entry.pid, signal.SIGKILL)
        await bench.next(Exited)
        await until(lambda: not any(map(alive, tagged)))


async def test_the_talk_goes_on(tmp_path: Path) -> None:
    client = shell(f"exec {sys.executable} -c '{TALKER}'", management=True)
    log = tmp_path / "clients" / "acme" / "output.log"
    with killed(tmp_path, client):
        await until(lambda: log.exists() and "told: hello" in log.read_text())
    async with RunnerBench(tmp_path) as bench:
        one = found(tmp_path)
        bench.runner.adopt(client, one, starting=True)  # it says itself how far it is
        os.close(one.pidfd)
        assert await bench.next(ClientSaid) == ClientSaid("acme", 3, Connected(address="10.0.0.2"))
        await until(lambda: log.read_text().count("told: hello") == 2)


async def test_who_notifies_is_heard_again_but_not_believed_while_it_starts(tmp_path: Path) -> None:
    client = shell(f"exec {sys.executable} -c '{NOTIFIER}'", notify=True)
    with killed(tmp_path, client):
        pass
    async with RunnerBench(tmp_path) as bench:
        one = found(tmp_path)
        with pytest.raises(SpawnError, match="while nobody listened"):
            bench.runner.adopt(client, one, starting=True)
        bench.runner.adopt(client, one, starting=False)
        os.close(one.pidfd)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
            speaker.sendto(b"READY=1", str(tmp_path / "clients" / "acme" / "notify.sock"))
        await until(lambda: any("a notification was ignored" in line for line in bench.lines()))
        assert bench.inbox.empty(), "everybody of our user can send one; that of a stranger says nothing"
        goal(tmp_path, 1)
        assert await bench.next(ClientSaid) == ClientSaid("acme", 3, Connected(address="10.0.0.2"))


def test_only_the_very_process_is_taken_up() -> None:
    with subprocess.Popen(["sleep", "1000"]) as sleep:
        known = processes.stat(sleep.pid)
        assert known is not None
        entry = JournalEntry("acme", 1, "abc", sleep.pid, known.start, processes.boot_id())
        wrong = (
            replace(entry, start=known.start - 1),
            replace(entry, boot="another"),
            replace(entry, pid=2**22 - 1),
        )
        assert living(wrong) == []
        [one] = living([entry])
        assert one.child
        os.close(one.pidfd)
        sleep.kill()
        os.waitid(os.P_PID, sleep.pid, os.WEXITED | os.WNOWAIT)
        [one] = living([entry])  # its end is still ours to hear of
        assert one.child
        os.close(one.pidfd)
    assert living([entry]) == []
