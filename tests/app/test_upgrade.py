"""An upgrade that fails: at every step before the last one nothing is given up, and the last one can fail
too.
"""

from __future__ import annotations

import os
import signal
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.sd_notify import SystemdNotifier
from supervisor.app.parts import Parts
from supervisor.app.stores.state_store import MemoryFiles, Present
from supervisor.app.upgrade import SIGNALS, Upgrade
from supervisor.core.events import Noticed
from supervisor.core.views.status_json import DaemonIdentity
from tests.config.kinds import HEAD, good
from tests.fakes import Habits, World
from tests.settings import configured
from tunnels.settings import Tunnel


class Rig:
    """An upgrade to a shell script, and what it would give away."""

    def __init__(self, directory: Path, script: str) -> None:
        self.world = World(
            {"acme": configured(Tunnel, name="acme", kind="test", destinations=("10.77.0.0/24",))}, Habits()
        )
        self.world.run(until=10.0)
        self.lock = os.open(directory, os.O_RDONLY)
        self.program = directory / "python"
        self.program.write_text(f"#!/bin/sh\n{script}\n")
        self.program.chmod(0o755)
        present = Present("boot", self.world.engine.tunnel, lambda name: "digest")
        needed = {
            "identity": DaemonIdentity("test", "0", 1, 0.0, 0.0),
            "engine": self.world.engine,
            "inbox": self.world.inbox,
            "notifier": SystemdNotifier({}),
            "stores": SimpleNamespace(records=MemoryFiles(directory, present)),
            "data_plane": SimpleNamespace(runner=SimpleNamespace(busy=False, kept={"acme": "a cookie"})),
            "servers": SimpleNamespace(descriptors=dict),
        }
        parts = Parts(**dict.fromkeys(field.name for field in fields(Parts)) | needed)  # type: ignore[arg-type]
        self.upgrade = Upgrade(parts, good(HEAD), self.lock, lambda: None, os.getppid(), str(self.program))


@pytest.mark.parametrize(("script", "said"), [
    ("echo 'ModuleNotFoundError: no aiohttp' >&2; exit 1", ["ModuleNotFoundError: no aiohttp"]),
    ("printf 'Traceback (most recent call last):\\n  File x\\nSyntaxError: bad\\n' >&2; exit 1", ["SyntaxError: bad"]),
    ("printf 'one mistake\\nanother one\\n' >&2; exit 78", ["one mistake", "another one"]),
    ("exit 3", ["the new program ended with code 3 and said nothing"]),
])  # fmt: skip
async def test_a_program_that_cannot_go_on_says_why(tmp_path: Path, script: str, said: list[str]) -> None:
    assert await Rig(tmp_path, script).upgrade.run() == said


async def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "")
    rig.program.unlink()
    [said] = await rig.upgrade.run()
    assert said.startswith("the new program could not be asked: ")


async def test_it_is_asked_with_what_it_would_get_and_not_in_our_name(tmp_path: Path) -> None:
    rig = Rig(
        tmp_path, f"cat /proc/self/fd/$FACILITATOR_CHECK >{tmp_path}/got; env >{tmp_path}/environment; exit 1"
    )
    await rig.upgrade.run()
    assert "a cookie" in (tmp_path / "got").read_text()
    assert "a cookie" not in (tmp_path / "environment").read_text()
    assert "NOTIFY_SOCKET" not in (tmp_path / "environment").read_text()


async def test_a_program_that_vanishes_in_the_last_moment_leaves_us_as_we_were(tmp_path: Path) -> None:
    rig = Rig(tmp_path, 'rm "$0"; echo 99')
    [said] = await rig.upgrade.run()
    assert said == f"{rig.program} cannot be executed: No such file or directory"
    assert rig.world.inbox.take() == [Noticed("")]
    assert not os.get_inheritable(rig.lock)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) & SIGNALS == set()
    os.close(rig.lock)
