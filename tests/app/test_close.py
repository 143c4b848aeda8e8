"""The end of a daemon: every part is closed, whatever the others do."""

from __future__ import annotations

import dataclasses
import inspect
import socket as socketlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from common.sd_notify import SystemdNotifier
from supervisor import disk
from supervisor.app.closing import Closing
from supervisor.app.directories import make_directory
from supervisor.app.files import load
from supervisor.app.owner import Owner
from supervisor.app.parts import DataPlane, Parts, Reports, RunInputs, Stores, Watchers
from supervisor.app.wiring import build
from supervisor.reports.log.redact import Secrets
from tunnels.registry import KINDS

GROUPS = (DataPlane, Reports, Stores, Watchers)


def built(directory: Path) -> Parts:
    """The parts of a daemon without tunnels; nothing was started."""
    file = directory / "config.yaml"
    file.write_text(
        f"facilitator: {{state_dir: {directory}/state, runtime_dir: {directory}/run}}\n"
        "staff: {networks: [10.8.0.0/16]}\ntunnels: {}\n"
    )
    config = load(file, KINDS)
    make_directory(config.facilitator.runtime_dir, "runtime_dir")
    make_directory(config.facilitator.state_dir, "state_dir")
    return build(
        config,
        RunInputs(file, KINDS, Secrets(), SystemdNotifier({}), lambda: 0, Owner("a test", supervised=False)),
    )


def each(parts: Any) -> Iterator[Any]:
    for field in dataclasses.fields(parts):
        value = getattr(parts, field.name)
        if isinstance(value, GROUPS):
            yield from each(value)
        elif not isinstance(value, Closing):
            yield value


class ClosingRecord:
    """Remembers what was closed, in order."""

    def __init__(self, failing: tuple[str, ...]) -> None:
        self.closed: list[str] = []
        self.failing = failing

    def close(self, name: str) -> None:
        self.closed.append(name)
        if name in self.failing:
            raise RuntimeError(f"{name} does not close")

    async def wait_and_close(self, name: str) -> None:
        self.close(name)


@pytest.mark.parametrize(
    "failing", [(), ("history",), ("servers",), ("network", "history"), ("history", "network", "servers")]
)
async def test_each_part_is_closed_whatever_the_others_do(failing: tuple[str, ...]) -> None:
    record, closing = ClosingRecord(failing), Closing()
    closing.add("history", lambda: record.close("history"))
    closing.add("network", lambda: record.wait_and_close("network"))
    closing.add("servers", lambda: record.wait_and_close("servers"))
    with capture_logs() as logged:
        error = await closing.close()
    assert record.closed == ["servers", "network", "history"], "the last one made is closed first"
    said = [line["error"] for line in logged if line["event"] == "a part could not be closed"]
    assert said == [f"RuntimeError('{name} does not close')" for name in record.closed if name in failing]
    assert (error is None) == (failing == ())
    assert error is None or repr(error) == said[0], "the first one is what is reported"
    assert await closing.close() is None, "and nothing is closed twice"


async def test_every_part_that_can_be_closed_has_registered_it(tmp_path: Path) -> None:
    parts = built(tmp_path)
    registered = {_owner(close) for _, close in parts.closing.open}
    closable = {type(part).__name__ for part in each(parts) if hasattr(part, "close")}
    assert closable == {
        "Auditing",
        "ClientGroup",
        "ConfigurationFile",
        "FlowWatch",
        "History",
        "HookRunner",
        "InputWatcher",
        "KernelNetwork",
        "NameServiceProcess",
        "Pagers",
        "ProbeLoop",
        "Runner",
        "Servers",
        "Silencing",
        "TlsRenewal",
    }
    assert closable <= registered
    assert await parts.closing.close() is None


async def test_a_start_that_failed_half_way_closes_what_was_made(tmp_path: Path) -> None:
    parts = built(tmp_path)
    order = [part for part, _ in parts.closing.open]
    socket = tmp_path / "run" / disk.CONTROL_SOCKET
    with socketlib.socket(socketlib.AF_UNIX) as control:
        control.bind(str(socket))
    assert await parts.closing.close() is None
    assert not socket.exists()
    first = {part: order.index(part) for part in order}
    assert first["servers"] > first["runner"] > first["network"] > first["history"] > first["control socket"]


def _owner(close: Any) -> str:
    """The class whose close a callable is; of a lambda, the class of what it encloses."""
    if inspect.ismethod(close):
        return type(close.__self__).__name__
    return " ".join(type(cell.cell_contents).__name__ for cell in close.__closure__ or ())
