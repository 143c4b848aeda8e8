"""The HTTP face over real sockets: what is served where, and who may change something."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, UnixConnector

from supervisor.control.api import HTTPApi
from supervisor.control.client import ControlClient, Refused, Unreachable
from supervisor.control.peer_credentials import ClientGuard
from supervisor.control.sockets import Servers
from supervisor.core.views.audit_lines import ChangeRequest
from supervisor.core.views.documents import StatusPageDocument
from tests.page.sample_pages import bad_night

OPEN = ClientGuard(lambda pid: False, "key")


class FakeDaemon:
    """Two tunnels' worth of answers; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, float]] = []
        self.problem: str | None = None
        self.details: list[str] = []
        self.gone = False
        self.lines: asyncio.Queue[str] = asyncio.Queue()
        self.changes: list[ChangeRequest] = []

    def record_change(self, request: ChangeRequest) -> None:
        self.changes.append(request)

    def status(self) -> dict[str, Any]:
        return {"facilitator": "test", "tunnels": []}

    async def status_page(self) -> StatusPageDocument:
        return bad_night()

    async def status_page_changed(self) -> None:
        await asyncio.Event().wait()

    def liveness_problem(self) -> str | None:
        return None

    def readiness_problem(self) -> str | None:
        return self.problem

    def ending(self) -> str | None:
        return self.problem

    def readiness_details(self) -> list[str]:
        return self.details

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        return b"facilitator_draining 0\n", "text/plain; version=0.0.4; charset=utf-8"

    async def plan(self) -> dict[str, Any]:
        return {"wanted": [], "changes": []}

    async def history(self, tunnel: str | None, limit: int) -> dict[str, Any]:
        if tunnel not in (None, "acme-dc"):
            raise LookupError(f"no such tunnel: {tunnel}")
        return {"tunnels": [tunnel], "limit": limit}

    def tail(self, tunnel: str, lines: int) -> list[str]:
        return ["one", "two"][-lines:]

    async def follow(self, tunnel: str) -> AsyncIterator[str]:
        while True:
            yield await self.lines.get()

    async def drain(self, now: bool) -> dict[str, Any]:
        self.asked.append(("", "drain", float(now)))
        return {"tunnels": []}

    async def command(self, tunnel: str, verb: str, wait: float, drain: bool, force: bool) -> dict[str, Any]:
        if self.gone:
            raise LookupError(f"{tunnel} was taken out of the configuration meanwhile")
        self.asked.append((tunnel, f"{verb} --drain" if drain else verb, wait))
        return {"name": tunnel, "phase": "up", "reason": "connected", "last_error": None}

    async def reload(self) -> dict[str, Any]:
        return {"done": ["acme-dc: probe changed"], "errors": [], "problems": []}

    def has_tunnel(self, tunnel: str) -> bool:
        return tunnel == "acme-dc"


@pytest.fixture
async def served():
    """A daemon on a control socket and on loopback TCP. Not below pytest's own directory, into which other
    users cannot look.
    """
    daemon, servers = FakeDaemon(), Servers()
    api = HTTPApi(daemon)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "control.sock"
        await servers.listen_unix(api.control(OPEN), path)
        await servers.listen_tcp(api.public(), "127.0.0.1", 0, None)
        await servers.serve()
        yield daemon, path, f"http://127.0.0.1:{servers.addresses()[-1][1]}"
        await servers.close()


async def _healthy(host: Path | None, base: str) -> bool:
    async with ClientSession(connector=None if host is None else UnixConnector(str(host))) as http:
        return (await http.get(f"{base}/healthz")).status == 200


async def test_who_connects_before_there_are_answers_waits(served, tmp_path: Path) -> None:
    _, path, base = served
    starting, api = Servers(), HTTPApi(FakeDaemon())
    try:
        await starting.listen_unix(api.control(OPEN), tmp_path / "s")
        await starting.listen_tcp(api.public(), "127.0.0.1", 0, None)
        host, port = starting.addresses()[-1]
        early = [
            asyncio.create_task(each)
            for each in (_healthy(tmp_path / "s", base), _healthy(None, f"http://{host}:{port}"))
        ]
        for _ in range(10):
            assert await _healthy(path, base)
        assert not any(task.done() for task in early)
        await starting.serve()
        assert await asyncio.gather(*early) == [True, True]
    finally:
        await starting.close()


async def test_tcp_is_read_only(served) -> None:
    _, _, base = served
    async with ClientSession() as http:
        assert (await http.get(base + "/")).status == 200
        for path, status in (
            ("/metrics", 200),
            ("/healthz", 200),
            ("/readyz", 200),
            ("/api/v1/status", 200),
            ("/api/v1/plan", 404),
        ):
            assert (await http.get(base + path)).status == status, path
        assert (await http.post(base + "/api/v1/tunnels/acme-dc/stop")).status == 404
        assert (await http.post(base + "/api/v1/status")).status == 405


async def test_readiness_says_why_not(served) -> None:
    daemon, _, base = served
    daemon.problem = "draining"
    async with ClientSession() as http:
        answer = await http.get(base + "/readyz")
        assert (answer.status, (await answer.text()).strip()) == (503, "draining")


async def test_details_change_nothing_about_readiness(served) -> None:
    daemon, _, base = served
    daemon.details = ["the configuration file is refused: a.yaml:3:1: unknown key"]
    async with ClientSession() as http:
        answer = await http.get(base + "/readyz")
        assert (answer.status, (await answer.text()).splitlines()) == (200, ["ok", *daemon.details])


async def test_commands_reach_the_daemon(served) -> None:
    daemon, path, _ = served
    client = ControlClient(path)
    assert (await asyncio.to_thread(client.post, "/api/v1/tunnels/acme-dc/restart?wait=7"))["phase"] == "up"
    assert daemon.asked == [("acme-dc", "restart", 7)]
    assert (await asyncio.to_thread(client.post, "/api/v1/reload"))["done"] == ["acme-dc: probe changed"]


async def test_a_drain_is_a_command_and_one_of_a_tunnel_a_way_to_stop_it(served) -> None:
    daemon, path, _ = served
    client = ControlClient(path)
    for wish in (
        "tunnels/acme-dc/stop?drain=1&wait=7",
        "tunnels/acme-dc/start?drain=1",
        "drain",
        "drain?now=1",
    ):
        await asyncio.to_thread(client.post, f"/api/v1/{wish}")
    assert daemon.asked == [
        ("acme-dc", "stop --drain", 7),
        ("acme-dc", "start", 0),
        ("", "drain", 0),
        ("", "drain", 1),
    ]
    assert [(act["action"], act["tunnel"]) for act in daemon.changes[2:]] == [("drain", None)] * 2


async def test_the_history_is_asked_for_by_tunnel_and_number_of_rows(served) -> None:
    _, path, base = served
    get = ControlClient(path).get
    assert await asyncio.to_thread(get, "/api/v1/history?limit=7") == {"tunnels": [None], "limit": 7}
    assert await asyncio.to_thread(get, "/api/v1/history?tunnel=acme-dc&limit=99999999") == {
        "tunnels": ["acme-dc"],
        "limit": 10_000,
    }
    with pytest.raises(Refused, match="no such tunnel: nope"):
        await asyncio.to_thread(get, "/api/v1/history?tunnel=nope")
    async with ClientSession() as http:
        assert (await http.get(base + "/api/v1/history")).status == 404, (
            "who was where is for the control socket only"
        )


async def test_a_daemon_that_drains_starts_nothing_anew(served) -> None:
    daemon, path, _ = served
    daemon.problem = "draining"
    for wish in ("tunnels/acme-dc/start", "tunnels/acme-dc/restart", "reload"):
        with pytest.raises(Refused, match="nothing is changed any more: draining"):
            await asyncio.to_thread(ControlClient(path).post, f"/api/v1/{wish}")
    assert daemon.asked == []
    await asyncio.to_thread(ControlClient(path).post, "/api/v1/tunnels/acme-dc/stop")
    assert daemon.asked == [("acme-dc", "stop", 0)], "what is under way may be cut"


async def test_a_tunnel_that_is_removed_while_somebody_waits_for_it_is_an_answer(served) -> None:
    daemon, path, _ = served
    daemon.gone = True
    with pytest.raises(Refused, match="acme-dc was taken out"):
        await asyncio.to_thread(ControlClient(path).post, "/api/v1/tunnels/acme-dc/start")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/api/v1/tunnels/nope/start", "no such tunnel: nope"),
        ("/api/v1/tunnels/acme-dc/explode", "no such command: explode"),
        ("/api/v1/tunnels/acme-dc/start?wait=long", "wait must be a whole number"),
    ],
)
async def test_a_wrong_wish_is_refused_in_words(served, path: str, words: str) -> None:
    with pytest.raises(Refused, match=words):
        await asyncio.to_thread(ControlClient(served[1]).post, path)


async def test_logs_follow(served) -> None:
    daemon, path, _ = served
    lines = ControlClient(path).lines("/api/v1/tunnels/acme-dc/logs?lines=1&follow=1")
    assert await asyncio.to_thread(next, lines) == "two"
    daemon.lines.put_nowait("three")
    assert await asyncio.to_thread(next, lines) == "three"


async def test_the_socket_is_closed_to_others(served) -> None:
    assert served[1].stat().st_mode & 0o777 == 0o660


def test_no_daemon_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        Unreachable, match=r"cannot connect to the daemon \(.*control.sock.*try: systemctl status facilitator"
    ):
        ControlClient(tmp_path / "control.sock").get("/api/v1/status")


@pytest.mark.root
async def test_a_stranger_may_look_but_not_touch(served) -> None:
    """Even when the file's mode lets a foreign user connect, the kernel's word about the peer decides."""
    daemon, path, _ = served
    path.chmod(0o666)
    script = """
import json, os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
answers = []
for line in ("GET /api/v1/status", "POST /api/v1/tunnels/acme-dc/stop"):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(sys.argv[1])
        s.sendall((line + " HTTP/1.0\\r\\nContent-Length: 0\\r\\n\\r\\n").encode())
        answers.append(s.makefile().readline().split()[1])
print(json.dumps(answers))
"""
    path.parent.chmod(0o755)
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script, str(path)], capture_output=True, text=True
    )
    assert json.loads(done.stdout) == ["200", "403"], done.stderr
    assert daemon.asked == []


async def test_every_attempt_to_change_something_is_told_with_who_made_it(served) -> None:
    daemon, path, _ = served
    client = ControlClient(path)
    await asyncio.to_thread(client.get, "/api/v1/status")
    await asyncio.to_thread(client.post, "/api/v1/tunnels/acme-dc/restart", 5)
    with pytest.raises(Refused):
        await asyncio.to_thread(client.post, "/api/v1/tunnels/nobody/stop", 5)
    daemon.problem = "draining"
    with pytest.raises(Refused):
        await asyncio.to_thread(client.post, "/api/v1/reload", 5)
    assert [(act["action"], act["tunnel"], act["result"]) for act in daemon.changes] == [
        ("restart", "acme-dc", "done"),
        ("stop", "nobody", "failed"),
        ("reload", None, "failed"),
    ]
    assert all(act["by"]["uid"] == os.getuid() and act["by"]["pid"] == os.getpid() for act in daemon.changes)
    assert daemon.changes[-1]["why"] == "nothing is changed any more: draining"
