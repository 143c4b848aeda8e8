"""Who runs this daemon: a systemd unit, a Nomad job, or a person with a configuration file.

A supervisor that has lost its daemon (Nomad's executor died) starts another one. That finds the orphan and
asks it to hand over: the daemon that the supervisor knows supervises the clients from then on. Between
different owners nobody gives way: exit 75, with a sentence that names both.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from supervisor import disk
from supervisor.control import nomad, systemd
from supervisor.control.client import ControlClient, Refused, Unreachable
from supervisor.core.exits import CannotStart, Exit

HAND_OVER_SECONDS = 5.0  # for the other daemon to let go
_CGROUPS = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class Owner:
    """`name` tells owners apart."""

    name: str
    supervised: bool  # it starts daemons by itself, and knows which is its own
    spares_clients: bool = False  # it never ends them together with the daemon

    def __str__(self) -> str:
        return self.name


def owner(path: Path, environ: Mapping[str, str] = os.environ, cgroups: Iterable[str] | None = None) -> Owner:
    """The owner of this process, which runs with this configuration file."""
    if (task := nomad.task(environ)) is not None:
        return Owner(f"the Nomad job {task.job} (namespace {task.namespace})", supervised=True)
    unit = systemd.unit_of(_lines() if cgroups is None else cgroups)
    if unit is not None and environ.get("INVOCATION_ID"):  # systemd.exec(5): of services only
        return Owner(f"the systemd unit {unit}", supervised=True, spares_clients=True)
    return Owner(f"the command facilitator run -c {path.resolve()}", supervised=False)


def _lines() -> list[str]:
    try:
        return _CGROUPS.read_text().splitlines()
    except OSError:
        return []


class Ownership:
    """Whether another daemon may take this one's place: the side that is asked."""

    def __init__(self, owner: Owner, parent: int | None = None) -> None:
        """`parent`: pid of the process that started this one, which may be gone (after an upgrade)."""
        self._owner, self.parent = owner, parent or os.getppid()

    def refusal(self, asks: str) -> str | None:
        """Why it may not; None: it may. A person's daemon gives way only when its parent process is gone."""
        if asks != self._owner.name:
            return f"this daemon belongs to {self._owner}, not to {asks}"
        if not self._owner.supervised and os.getppid() == self.parent:
            return f"another facilitator runs: {self._owner}; its parent process lives"
        return None


class Lock(Protocol):
    """`supervisor.app.directories.lock`."""

    def __call__(self, runtime_dir: Path, within: float = 0.0) -> int:
        """The descriptor that holds the lock. CannotStart."""


def take_lock(lock: Lock, runtime_dir: Path, asks: Owner) -> int:
    """The lock on `runtime_dir`; where another daemon of the same owner holds it, that one is asked to hand
    over: it releases the lock as its last act. CannotStart(RUNNING): it does not.
    """
    try:
        return lock(runtime_dir)
    except CannotStart as problem:
        if problem.code is not Exit.RUNNING:
            raise
        _ask(runtime_dir, asks, problem)
    return lock(runtime_dir, HAND_OVER_SECONDS)


def _ask(runtime_dir: Path, asks: Owner, problem: CannotStart) -> None:
    client = ControlClient(runtime_dir / disk.CONTROL_SOCKET, timeout=HAND_OVER_SECONDS)
    try:
        client.post("/api/v1/hand-over", body=asks.name)
    except Refused as refused:
        raise CannotStart(Exit.RUNNING, f"{problem}: {refused}") from None
    except Unreachable:  # it is starting, or ending, or of a version that cannot be asked
        raise problem from None
    structlog.get_logger().info("the daemon that runs hands over", owner=asks.name)
