"""The end of a daemon: every part is closed, whatever the others do."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from supervisor.app.daemon import Daemon, ProcessLifetime
from supervisor.app.shutdown import Orders

ASYNC = ("servers", "tls_renewal", "prober", "watcher", "runner", "network", "auditing")
PLAIN = ("flows", "alerter", "history")


@dataclass
class ClosablePart:
    """Something that is closed at once."""

    name: str
    closed: list[str]
    fails: bool = False

    def close(self, **how: Any) -> None:
        self.closed.append(self.name)
        if self.fails:
            raise RuntimeError(f"{self.name} does not close")


class SlowPart(ClosablePart):
    """One that takes its time."""

    async def close(self, **how: Any) -> None:
        super().close()


def daemon(tmp_path: Path, closed: list[str], failing: tuple[str, ...]) -> Daemon:
    parts = {
        name: (SlowPart if name in ASYNC else ClosablePart)(name, closed, name in failing)
        for name in ASYNC + PLAIN
    }
    config = SimpleNamespace(facilitator=SimpleNamespace(runtime_dir=tmp_path))
    return Daemon(tmp_path, config, SimpleNamespace(**parts), Orders(), ProcessLifetime(0, lambda: None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "failing", [(), ("servers",), ("flows",), ("network", "history"), ASYNC + PLAIN], ids="+".join
)
async def test_each_part_is_closed_whatever_the_others_do(tmp_path: Path, failing: tuple[str, ...]) -> None:
    closed: list[str] = []
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(str(tmp_path / "control.sock"))
    with capture_logs() as logged:
        error = await daemon(tmp_path, closed, failing).close()
    assert set(closed) == {*ASYNC, *PLAIN}
    assert len(closed) == len(ASYNC + PLAIN)
    assert (
        closed.index("servers") < closed.index("runner") < closed.index("network") < closed.index("history")
    )
    assert not (tmp_path / "control.sock").exists()
    said = [line["error"] for line in logged if line["event"] == "a part could not be closed"]
    assert said == [f"RuntimeError('{name} does not close')" for name in closed if name in failing]
    assert (error is None) == (failing == ())
    assert error is None or repr(error) == said[0], "the first one is what is reported"
