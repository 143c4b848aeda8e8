"""A program of ours talks with the daemon, and with nobody else who can connect to its socket."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunnels.drivers.channel import DaemonChannel
from tunnels.drivers.peer_process import is_descendant, peer_pid

KEY = b"a key\n"


@pytest.fixture
def key() -> Iterator[int]:
    fd = os.memfd_create("key")
    os.write(fd, KEY)
    yield fd
    os.close(fd)


async def told(path: Path, *lines: bytes) -> bytes:
    """What somebody hears who says these lines and then waits until there is something, or nothing will
    be.
    """
    reader, writer = await asyncio.open_unix_connection(path)
    writer.writelines(lines)
    try:
        return await asyncio.wait_for(reader.readline(), 60)
    except ConnectionResetError:  # closed before it was all read
        return b""
    finally:
        writer.close()


async def test_only_who_knows_the_key_is_told_anything(tmp_path: Path, key: int) -> None:
    renewed: list[bool] = []
    talk, path = DaemonChannel(key, lambda: renewed.append(True)), tmp_path / "s"
    await talk.listen(path)
    talk.keep("a secret cookie")
    renew = b'{"renew": true}\n'
    for first in (b"another key\n", b"\n", renew, KEY[:-1] + b"x\n", b"a" * (1 << 20)):
        assert await told(path, first, renew) == b""
    assert renewed == []
    assert json.loads(await told(path, KEY)) == {"keep": "a secret cookie"}


async def test_a_stranger_does_not_take_the_daemons_place(tmp_path: Path, key: int) -> None:
    talk, path = DaemonChannel(key), tmp_path / "s"
    await talk.listen(path)
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(KEY)
    asked = asyncio.create_task(talk.ask("code", "Code:"))
    assert json.loads(await reader.readline())["ask"] == "code"
    assert await told(path, b"no key\n") == b""
    writer.write(b'{"id": 1, "answer": "123456"}\n')
    assert await asyncio.wait_for(asked, 60) == "123456", "the daemon still has its connection"
    writer.close()


def test_a_child_is_told_from_a_stranger(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    connect = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.recv(1)"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        with subprocess.Popen(["sh", "-c", f'{sys.executable} -c "{connect}" {path}; :']) as child:
            connection, _ = server.accept()
            grandchild = peer_pid(connection)
            assert grandchild != child.pid
            assert is_descendant(grandchild)
            connection.close()
    assert not is_descendant(os.getppid())
    assert not is_descendant(grandchild), "it has ended"
