"""The process of the name service, as a daemon sees it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.plain import plain
from supervisor.core.names.values import AskingRules, NameServiceState
from supervisor.names.program import KEY, SOCKET, NameProcess
from tests.names.messages import ACME

STATE = {"state": plain(NameServiceState(AskingRules(()), {"acme-dc": ACME}))}


async def told(directory: Path, *lines: Mapping[str, Any]) -> list[str]:
    """What it says to a daemon that connects and tells it these lines, up to the answer to a look-up."""
    reader, writer = await asyncio.open_unix_connection(directory / SOCKET)
    try:
        look_up = {"look_up": [1, "www.example.com", 1]}
        writer.write(b"key\n" + b"".join(json.dumps(each).encode() + b"\n" for each in (*lines, look_up)))
        said: list[str] = []
        async with asyncio.timeout(30):
            while said[-1:] != ["found"]:
                said += json.loads(await reader.readline())
        return said
    finally:
        writer.close()


async def test_each_daemon_is_told_at_once_what_the_process_has_counted_and_cannot_do(tmp_path: Path) -> None:
    (tmp_path / KEY).write_text("key")
    running = asyncio.create_task(NameProcess(tmp_path, "test").run())
    while not (tmp_path / SOCKET).exists():
        await asyncio.sleep(0.01)
    assert "report" in await told(tmp_path, STATE)
    assert "report" in await told(tmp_path, STATE)  # another daemon, with the same state
    await told(tmp_path, {"end": True})
    await asyncio.wait_for(running, 30)
