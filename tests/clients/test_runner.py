"""The runner with real processes: how they begin, what they are given, and how they end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import statistics
import sys
import time
from pathlib import Path

import pytest

from supervisor.clients.launch import MAX_FILE_BYTES
from supervisor.clients.ports import PortPicker
from supervisor.core.events import Answered, ClientSaid, Delayed, Exited, Kept, Spawned, SpawnFailed
from tests.clients.scripted import RunnerBench, alive, kind, shell, tagged, tunnel, until, zombies
from tunnels.base import Carrier, Connected, Failed, Login, Question, Reason, Secret, Wanted

STRAY = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(sys.argv[1], "w").write(str(os.getpid()))
        time.sleep(1000)
    os._exit(0)
print("up", flush=True)
if len(sys.argv) == 2:
    time.sleep(1000)
while not os.path.exists(sys.argv[1]) or not open(sys.argv[1]).read():
    time.sleep(0.005)
"""

TELLER = """
import socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind("management.sock")
server.listen()
daemon = server.accept()[0].makefile("rw")
print(sys.argv[1], file=daemon, flush=True)
for line in daemon:
    print("told:", line.strip(), flush=True)
"""


# --- beginning
# ----------------------------------------------------------------------------------------------------------


async def test_life_of_a_client(tmp_path: Path) -> None:
    async with RunnerBench(tmp_path) as bench:
        bench.runner.spawn(shell("echo up; echo bye >&2; exit 3"), 7)
        spawned = await bench.next(Spawned)
        assert (spawned.tunnel, spawned.session, spawned.device, spawned.port, len(spawned.id)) == (
            "acme",
            7,
            "t-acme",
            None,
            32,
        )
        assert await bench.next(ClientSaid) == ClientSaid("acme", 7, Connected(address="10.0.0.2"))
        assert await bench.next(Exited) == Exited("acme", 7, code=3, said="up")
        assert bench.runner.tail("acme", 10) == bench.lines() == ["up", "bye"]
        assert bench.directory().stat().st_mode & 0o777 == 0o700
        assert (bench.directory() / "output.log").stat().st_mode & 0o777 == 0o600


async def test_what_a_client_can_write_has_a_hard_bound_that_does_not_end_it(tmp_path: Path) -> None:
    """Should the loop be too busy to cut: at the limit a write fails, and the client lives."""
    async with RunnerBench(tmp_path) as bench:
        limited = "while [ $(ulimit -f) = unlimited ]; do :; done"  # it is limited right after its start
        write = f"head -c {MAX_FILE_BYTES + 1} /dev/zero >big; head -c {MAX_FILE_BYTES} /dev/zero >>big"
        bench.runner.spawn(shell(f"{limited}; {write}; exit 7"), 1)
        await bench.next(Spawned)
        assert await bench.ended() == Exited("acme", 1, 7)
        assert (bench.directory() / "big").stat().st_size == MAX_FILE_BYTES


async def test_words_written_before_the_end_come_before_the_end(tmp_path: Path) -> None:
    async with RunnerBench(tmp_path) as bench:
        for session in range(1, 20):
            bench.runner.spawn(shell("printf 'fail wrong password'; kill -9 $$"), session)
            await bench.next(Spawned)
            assert await bench.next(ClientSaid) == ClientSaid(
                "acme", session, Failed(Reason.AUTH, "wrong password")
            )
            assert await bench.ended() == Exited("acme", session, signal=9)


@pytest.mark.parametrize(
    ("argv", "reason", "said"),
    [
        (("no-such-client",), Reason.MISSING_BINARY, "apt install no-such-client"),
        (("SCRIPT",), Reason.MISSING_BINARY, "interpreter"),
        (("DATA",), Reason.MISSING_RIGHT, "may not run it"),
        (("refuse",), Reason.CLIENT_CONFIG, "line 3: refuse is not an option"),
    ],
)
async def test_what_cannot_start_says_why(
    tmp_path: Path, argv: tuple[str, ...], reason: Reason, said: str
) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    (tmp_path / "data").write_text("not a program")
    words = {"SCRIPT": str(script), "DATA": str(tmp_path / "data")}
    async with RunnerBench(tmp_path) as bench:
        bench.runner.spawn(tunnel(*(words.get(word, word) for word in argv)), 1)
        failed = await bench.next(SpawnFailed)
        assert (failed.session, failed.reason) == (1, reason), failed.text
        assert said in failed.text
        bench.runner.spawn(shell("exit 0"), 2)  # nothing of the failure is in the way
        await bench.next(Spawned)
        assert await bench.ended() == Exited("acme", 2, code=0)


async def test_what_stands_in_the_way_is_named(tmp_path: Path) -> None:
    async with RunnerBench(tmp_path) as bench:
        (tmp_path / "clients").touch()
        bench.runner.spawn(shell("exit 0"), 1)
        failed = await bench.next(SpawnFailed)
        assert (failed.reason, failed.text) == (Reason.LOCAL, f"{bench.directory()}: Not a directory")


async def test_a_program_beside_the_client_may_be_missing(tmp_path: Path) -> None:
    async with RunnerBench(tmp_path, kinds={"scripted": kind(binaries=("no-such-helper",))}) as bench:
        bench.runner.spawn(shell("exit 0"), 1)
        assert (await bench.next(SpawnFailed)).reason is Reason.MISSING_BINARY


async def test_a_missing_secret_says_which(tmp_path: Path) -> None:
    async with RunnerBench(tmp_path) as bench:
        bench.runner.spawn(shell("exit 0", secret="acme-password"), 1)
        failed = await bench.next(SpawnFailed)
        assert failed.reason is Reason.MISSING_INPUT
        assert failed.text.startswith("acme-password is neither")


async def test_secrets_reach_the_client_and_nobody_else(tmp_path: Path) -> None:
    async with RunnerBench(tmp_path) as bench:
        bench.secrets["acme-password"] = b"hunter2hunter2"
        script = (
            "pw=/proc/$$/fd/{password}; cat $pw; echo; echo fail `cat $pw` no good; echo boom; echo "
            "ready; exec sleep 100"
        )
        bench.runner.spawn(shell(script, secret="acme-password"), 1)
        spawned = await bench.next(Spawned)
        said = await bench.next(ClientSaid)
        await until(lambda: "ready" in bench.lines())
        assert said.what == Failed(Reason.AUTH, "*** no good")
        lines = [
            "***",
            "fail *** no good",
            "a line was not understood: RuntimeError: boom ***",
            "boom",
            "ready",
        ]
        assert sorted(bench.lines()) == sorted(lines)
        assert "hunter2" not in "".join(bench.runner.tail("acme", 200))
        for what in ("cmdline", "environ"):
            assert b"hunter2" not in Path(f"/proc/{spawned.pid}/{what}").read_bytes()
        assert b"hunter2" not in (tmp_path / "journal" / "acme.json").read_bytes()


async def test_a_question_waits_for_an_answer_that_nobody_else_sees(tmp_path: Path) -> None:
    async with RunnerBench(tmp_path) as bench:
        bench.runner.spawn(tunnel("{python}", "-c", TELLER, "ask text Colour?", management=True), 1)
        await bench.next(Spawned)
        assert await bench.next(ClientSaid) == ClientSaid("acme", 1, Question(Wanted.TEXT, "Colour?"))
        bench.runner.answer("acme", "octarine")
        assert await bench.next(Answered) == Answered("acme", 1)
        await until(lambda: "told: answer ***" in bench.lines())


async def test_a_code_comes_from_the_seed_and_is_used_once(tmp_path: Path) -> None:
    async with RunnerBench(tmp_path) as bench:
        bench.secrets["seed"] = b"JBSWY3DPEHPK3PXP"
        asking = tunnel(
            "{python}", "-c", TELLER, "ask code Code?", management=True, login=Login(totp=Secret(file="seed"))
        )
        bench.runner.spawn(asking, 1)
        await bench.next(Spawned)
        assert 0.0 <= (await bench.next(Delayed)).seconds <= 1.0
        await until(lambda: any(line.startswith("told: answer") for line in bench.lines()))
        assert "told: answer ***" in bench.lines()


async def test_what_a_session_keeps_is_given_to_the_next_that_resumes_it(tmp_path: Path) -> None:
    async with RunnerBench(tmp_path) as bench:
        bench.runner.spawn(shell("echo keep cookie-of-today"), 1)
        await bench.next(Spawned)
        assert await bench.next(Kept) == Kept("acme", 1, True)
        await bench.next(Exited)
        for session, resume, expected in ((2, True, "***"), (3, False, "none 3"), (4, True, "none 4")):
            bench.runner.spawn(
                shell(f"cat /proc/$$/fd/{{kept}} 2>/dev/null || echo none {session}"), session, resume
            )
            await bench.next(Spawned)
            await bench.next(Exited)
            assert bench.lines()[-1] == expected


async def test_the_environment_is_minimal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("WATCHDOG_USEC", "1")
    async with RunnerBench(tmp_path) as bench:
        bench.runner.spawn(tunnel("/usr/bin/env"), 1)
        spawned = await bench.next(Spawned)
        await bench.next(Exited)
        assert sorted(bench.lines()) == [
            "COLOUR=green",
            f"FACILITATOR_CLIENT={tmp_path}/acme/{spawned.id}",
            "LANG=C.UTF-8",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            f"TMPDIR={bench.directory()}",
        ]


async def test_a_proxy_gets_a_port(tmp_path: Path) -> None:
    async with RunnerBench(tmp_path, kinds={"scripted": kind(Carrier.PROXY)}) as bench:
        bench.runner.spawn(shell("echo {port}; exec sleep 100"), 1)
        spawned = await bench.next(Spawned)
        await until(lambda: bench.lines() == [str(spawned.port)])
        assert spawned.device is None
        assert 17300 <= (spawned.port or 0) <= 18299


def test_ports_rest_before_they_are_used_again() -> None:
    now = 0.0
    ports = PortPicker(18200, 18202, lambda: now)
    assert {ports.pick() for _ in range(3)} == {18200, 18201, 18202}
    with pytest.raises(OSError, match="no free port"):
        ports.pick()
    now = 60.0
    assert ports.pick() == 18200


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_busy_port_is_passed_over(family: socket.AddressFamily, address: str) -> None:
    with socket.socket(family) as busy:
        busy.bind((address, 18203))
        busy.listen()
        assert PortPicker(18203, 18204).pick() == 18204


async def test_notifications_are_heard(tmp_path: Path) -> None:
    program = (
        "import os, socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
        "s.connect(os.environ['NOTIFY_SOCKET']);"
        "s.send(b'STATUS=nearly\\nREADY=1'); os._exit(0)"
    )
    async with RunnerBench(tmp_path) as bench:
        bench.runner.spawn(tunnel("{python}", "-c", program, notify=True), 1)
        await bench.next(Spawned)
        assert (await bench.next(ClientSaid)).what == Connected(address="10.0.0.2")
        assert await bench.ended() == Exited("acme", 1, code=0)
        assert not (bench.directory() / "notify.sock").exists()


# --- the end
# ----------------------------------------------------------------------------------------------------------


async def test_terminate_then_kill_of_a_stubborn_tree(tmp_path: Path) -> None:
    async with RunnerBench(tmp_path) as bench:
        note = tmp_path / "stray"
        bench.runner.spawn(tunnel("{python}", "-c", STRAY, str(note)), 1)
        spawned = await bench.next(Spawned)
        await bench.next(ClientSaid)
        await until(lambda: note.exists() and note.read_text() != "")
        stray = int(note.read_text())
        bench.runner.terminate("acme", 1)
        bench.runner.terminate("acme", 99)  # another session's order changes nothing
        bench.runner.kill("acme", 99)
        with pytest.raises(TimeoutError):
            await bench.next(Exited, within=0.3)
        assert alive(spawned.pid)
        assert alive(stray)
        bench.runner.kill("acme", 1)
        assert await bench.ended() == Exited("acme", 1, signal=9)
        assert not alive(stray)
        assert tagged(tmp_path) == zombies() == []


async def test_strays_of_a_client_that_ends_by_itself_are_gone_before_the_end_is_told(tmp_path: Path) -> None:
    async with RunnerBench(tmp_path) as bench:
        note = tmp_path / "stray"
        bench.runner.spawn(tunnel("{python}", "-c", STRAY, str(note), "leave"), 1)
        await bench.next(Spawned)
        await bench.next(ClientSaid)
        assert await bench.ended() == Exited("acme", 1, code=0)
        assert not alive(int(note.read_text()))
        assert tagged(tmp_path) == zombies() == []


async def test_a_stray_that_dropped_our_tag_is_found_by_its_session(tmp_path: Path) -> None:
    async with RunnerBench(tmp_path) as bench:
        bench.runner.spawn(shell("env -i sleep 1000 & echo $!"), 1)
        await bench.next(Spawned)
        await bench.next(Exited)
        assert not alive(int(bench.lines()[0]))


async def test_one_clients_end_leaves_the_strays_of_another_alone(tmp_path: Path) -> None:
    async with RunnerBench(tmp_path) as bench:
        bench.runner.spawn(shell("(setsid sleep 1000 & echo $!); exec sleep 1000", name="other"), 1)
        await bench.next(Spawned)
        await until(lambda: bool(bench.lines()))
        bench.runner.spawn(shell("exit 0"), 1)
        await bench.next(Spawned)
        await bench.next(Exited)
        assert alive(int(bench.lines()[0]))
        bench.runner.kill("other", 1)
        await bench.next(Exited)
        assert not alive(int(bench.lines()[0]))


async def test_orphans_that_end_by_themselves_leave_no_zombie(tmp_path: Path) -> None:
    async with RunnerBench(tmp_path) as bench:
        bench.runner.spawn(shell("for i in 1 2 3 4 5; do (setsid sleep 0.1 &); done; exec sleep 1000"), 1)
        spawned = await bench.next(Spawned)
        await until(lambda: tagged(tmp_path) == [spawned.pid] and not zombies())


async def test_orders_for_a_client_that_has_not_begun_yet(tmp_path: Path) -> None:
    async with RunnerBench(tmp_path) as bench:
        bench.runner.spawn(shell("exec sleep 1000"), 1)
        bench.runner.terminate("acme", 1)
        assert await bench.ended() == Exited("acme", 1, signal=signal.SIGTERM)
        assert tagged(tmp_path) == []


async def test_a_second_client_beside_the_first_is_refused(tmp_path: Path) -> None:
    async with RunnerBench(tmp_path) as bench:
        bench.runner.spawn(shell("exec sleep 1000"), 1)
        await bench.next(Spawned)
        bench.runner.spawn(shell("exec sleep 1000"), 2)
        assert (await bench.next(SpawnFailed)).session == 2


async def test_close_leaves_the_clients_running(tmp_path: Path) -> None:
    bench = RunnerBench(tmp_path)
    bench.runner.start()
    bench.runner.spawn(shell("exec sleep 1000"), 1)
    spawned = await bench.next(Spawned)
    await bench.runner.close()
    assert alive(spawned.pid)
    assert json.loads((tmp_path / "journal" / "acme.json").read_text())["pid"] == spawned.pid
    os.kill(spawned.pid, signal.SIGKILL)
    os.waitpid(spawned.pid, 0)


async def test_usage_counts_the_whole_tree(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < 0.2: pass\nprint('up', flush=True)\ntime.sleep(1000)"
    async with RunnerBench(tmp_path) as bench:
        bench.runner.spawn(tunnel("/bin/sh", "-c", '"$0" -c "$1" & wait', sys.executable, burn), 1)
        await bench.next(Spawned)
        await bench.next(ClientSaid)
        usage = await asyncio.to_thread(bench.runner.usage, "acme", 1)
        assert usage is not None
        assert usage.cpu_seconds >= 0.15  # counted in ticks of 10 ms
        assert usage.resident_bytes > 4 << 20
        assert usage.open_files >= 6
        assert bench.runner.usage("nobody", 1) is None


@pytest.mark.slow
async def test_from_kill_to_the_next_client(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Printed rather than asserted tightly: the machine is shared."""
    async with RunnerBench(tmp_path) as bench:
        names = [f"idle-{n}" for n in range(50)]
        for name in names:
            bench.runner.spawn(shell("exec sleep 1000", name=name), 1)
        for _ in names:
            await bench.next(Spawned)
        bench.runner.spawn(shell("exec sleep 1000"), 1)
        spawned = await bench.next(Spawned)
        times = []
        for session in range(2, 22):
            began = time.perf_counter()
            os.kill(spawned.pid, signal.SIGKILL)
            await bench.next(Exited)
            bench.runner.spawn(shell("exec sleep 1000"), session)
            spawned = await bench.next(Spawned)
            times.append((time.perf_counter() - began) * 1000)
        with capsys.disabled():
            print(
                f"\nkill to respawn among 50 clients: median {statistics.median(times):.1f} ms, worst "
                f"{max(times):.1f} ms"
            )
        assert statistics.median(times) < 1000
