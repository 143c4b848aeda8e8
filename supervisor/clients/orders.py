"""An order to the runner, and everything that is known about a client before it is started."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from supervisor.clients.client import LineHandler
from supervisor.clients.launch import SpawnError
from supervisor.clients.sandbox import Sandbox
from tunnels.base import KEY, AnyKind, Launch, Placement, Reason, Tunnel, slot_name

Key = tuple[str, int]  # tunnel and session


@dataclass(frozen=True, slots=True)
class Order:
    """Start a client: for this session, in this slot. `resume`: without a login, if the last session left
    what spares it; `remote`: index of the remote gateway to try first.
    """

    tunnel: Tunnel
    session: int
    resume: bool
    remote: int
    slot: int

    @property
    def key(self) -> Key:
        """Tunnel and session."""
        return self.tunnel.name, self.session

    @property
    def place(self) -> str:
        """Name of the slot: `NAME` or `NAME~`."""
        return slot_name(self.tunnel.name, self.slot)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that must be known before a process is started."""

    placement: Placement
    launch: Launch
    handler: LineHandler
    kind: AnyKind
    sandbox: Sandbox

    @property
    def asks_key(self) -> bool:
        """The client accepts commands on its management socket only after its key."""
        return any(KEY in word for word in self.launch.argv)


@contextlib.contextmanager
def local_trouble() -> Iterator[None]:
    """Turn an OSError into a SpawnError(LOCAL)."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if isinstance(error.filename, str | Path) else ""
        raise SpawnError(Reason.LOCAL, f"{where}{error.strerror or error}") from error
