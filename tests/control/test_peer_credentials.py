"""The daemon's own VPN clients are refused, whatever they do to look like another process."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from supervisor.control.api import HTTPApi
from supervisor.control.client import KEY_FILE
from supervisor.control.peer_credentials import ClientGuard, new_key
from supervisor.control.sockets import Servers
from tests.control.test_api import FakeDaemon

Served = Callable[[Callable[[int], bool]], "asyncio.Future[Path]"]

ASK = """
import sys
from pathlib import Path
from supervisor.control.client import ControlClient, Refused
try:
    ControlClient(Path(sys.argv[1])).get("/api/v1/status")
except Refused as refused:
    print(refused, refused.forbidden)
else:
    print("served")
"""
FD_SETSIZE = 1024  # descriptors that select(2) can take
CONFINED = ("setpriv", "--no-new-privs")


@pytest.fixture
async def directory() -> AsyncIterator[Path]:
    """Not below pytest's own directory, into which other users cannot look."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


async def ask(path: Path, *prefix: str) -> tuple[int, str]:
    """The process that asked, and what it was told."""
    process = await asyncio.create_subprocess_exec(
        *prefix, sys.executable, "-c", ASK, str(path), stdout=subprocess.PIPE, cwd=os.getcwd()
    )
    told, _ = await process.communicate()
    return process.pid, told.decode().strip()


async def serve(servers: Servers, directory: Path, is_client: Callable[[int], bool]) -> Path:
    path = directory / "control.sock"
    guard = ClientGuard(is_client, new_key(directory / KEY_FILE))
    await servers.listen_unix(HTTPApi(FakeDaemon()).control(guard), path)
    await servers.serve()
    return path


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    servers = Servers()
    yield servers
    await servers.close()


async def test_a_client_is_refused_and_everybody_else_is_served(servers: Servers, directory: Path) -> None:
    clients: set[int] = set()
    asked: list[int] = []

    def is_client(pid: int) -> bool:
        asked.append(pid)
        return pid in clients or len(clients) > 0

    path = await serve(servers, directory, is_client)
    pid, told = await ask(path)
    assert (told, asked) == ("served", [pid])
    clients.add(1)
    pid, told = await ask(path)
    assert told == f"process {pid} belongs to a client of this daemon, and those do not control it True"


async def test_a_daemon_with_more_than_a_thousand_descriptors_answers(
    servers: Servers, directory: Path
) -> None:
    path = await serve(servers, directory, lambda pid: False)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    spare = os.open("/dev/null", os.O_RDONLY)
    held = [spare]
    try:
        while held[-1] < FD_SETSIZE:
            held.append(os.dup(spare))
        assert (await ask(path))[1] == "served"
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_who_looks_like_a_client_shows_the_key(servers: Servers, directory: Path) -> None:
    path = await serve(servers, directory, lambda pid: False)
    assert (await ask(path, *CONFINED))[1] == "served", "the command reads the key where it may"
    key = (directory / KEY_FILE).read_text()
    (directory / KEY_FILE).write_text("another one")
    pid, told = await ask(path, *CONFINED)
    assert told.startswith(
        f"process {pid} runs with no_new_privs, like a client of this daemon: show the content of control.key"
    )
    assert (await ask(path))[1] == "served", "somebody else needs none"
    (directory / KEY_FILE).unlink()
    assert "no_new_privs" in (await ask(path, *CONFINED))[1]
    assert len(key) == 64


async def test_the_key_is_for_those_who_may_use_the_socket(directory: Path) -> None:
    assert new_key(directory / KEY_FILE) != new_key(directory / KEY_FILE)
    assert (directory / KEY_FILE).stat().st_mode & 0o137 == 0
