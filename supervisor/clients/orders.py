"""What is ordered of the runner, and what must be known of a client before it is started."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from supervisor.clients.client import Voice
from supervisor.clients.launch import SpawnError
from supervisor.clients.sandbox import Sandbox
from tunnels.base import KEY, AnyKind, Launch, Placement, Reason, Tunnel, slot_name

Key = tuple[str, int]  # tunnel and session


@dataclass(frozen=True, slots=True)
class Order:
    """A client that is wanted."""

    tunnel: Tunnel
    session: int
    resume: bool
    remote: int
    slot: int

    @property
    def key(self) -> Key:
        """Whose client."""
        return self.tunnel.name, self.session

    @property
    def place(self) -> str:
        """Name of the slot."""
        return slot_name(self.tunnel.name, self.slot)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that must be known before a process is started."""

    slot: int
    place: Placement
    launch: Launch
    voice: Voice
    kind: AnyKind
    sandbox: Sandbox

    @property
    def asks_key(self) -> bool:
        """The client takes orders from nobody who does not know its key."""
        return any(KEY in word for word in self.launch.argv)


@contextlib.contextmanager
def local_trouble() -> Iterator[None]:
    """What this host refuses becomes a SpawnError."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if isinstance(error.filename, str | Path) else ""
        raise SpawnError(Reason.LOCAL, f"{where}{error.strerror or error}") from error
