"""The management dialogue with a real server process on a real socket."""

from __future__ import annotations

from pathlib import Path

from supervisor.core.events import ClientSaid, Exited, Spawned
from tests.clients.scripted import RunnerBench, shell, tunnel, until

SERVER = """
import os, socket, sys, time
path = sys.argv[1] + "/management.sock"
rounds = int(sys.argv[2])
for n in range(rounds):
    if os.path.exists(path):
        os.unlink(path)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    time.sleep(0.05)                # a connection is refused until we listen
    server.listen(1)
    peer, _ = server.accept()
    server.close()
    lines = peer.makefile("rw")
    assert lines.readline() == "hello\\n"
    if n < rounds - 1:
        peer.close(); lines.close()
        continue
    print(">PASSWORD", file=lines, flush=True)
    assert lines.readline() == "password hunter2hunter2\\n"
    print("got it", flush=True)
    print("noise\\nup\\nfail kicked out", file=lines, end="", flush=True)   # and gone without a newline
"""


async def converse(tmp_path: Path, rounds: int) -> RunnerBench:
    async with RunnerBench(tmp_path) as bench:
        bench.secrets["pw"] = b"hunter2hunter2"
        bench.directory().mkdir(parents=True)
        (bench.directory() / "management.sock").write_text("left behind by an earlier client")
        bench.runner.spawn(
            tunnel("{python}", "-c", SERVER, "{directory}", str(rounds), management=True, secret="pw"), 1
        )
        await bench.next(Spawned)
        assert (await bench.next(ClientSaid)).what.__class__.__name__ == "Connected"
        assert (await bench.next(ClientSaid)).what.__class__.__name__ == "Failed"
        assert await bench.ended() == Exited("acme", 1, code=0)
        assert bench.lines() == bench.runner.tail("acme", 200) == ["got it"]
        return bench


async def test_dialogue(tmp_path: Path) -> None:
    await converse(tmp_path, 1)


async def test_a_lost_connection_is_made_again(tmp_path: Path) -> None:
    await converse(tmp_path, 3)


async def test_a_client_that_never_makes_its_socket_ends_as_usual(tmp_path: Path) -> None:
    async with RunnerBench(tmp_path) as bench:
        bench.runner.spawn(shell("echo here; exec sleep 1000", management=True), 1)
        await bench.next(Spawned)
        await until(lambda: bench.lines() == ["here"])
        bench.runner.terminate("acme", 1)
        assert await bench.ended() == Exited("acme", 1, signal=15)
