"""Which client processes a daemon had: small files that outlive its crash. `adoption` and `sweep` read them at the next start.

A pid alone proves nothing, as the kernel uses pids again: it must have the recorded start time in the recorded boot.
"""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from supervisor.clients.shelf import Shelf
from tunnels.base import seat_name

NAME = "journal"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One client process, as written down."""

    tunnel: str
    session: int
    id: str
    pid: int
    start: int                  # clock ticks since boot
    boot: str
    device: str | None = None
    port: int | None = None
    lane: int | None = None
    management: str | None = None
    seat: int = 0
    kind: str = ""
    notify: bool = False        # it was given a NOTIFY_SOCKET
    format: int = FORMAT        # of this entry; one of another format is none

    @property
    def place(self) -> str:
        """Name of the seat."""
        return seat_name(self.tunnel, self.seat)


class Journal:
    """`runtime_dir/journal/`: a file for each seat that has a client."""

    def __init__(self, runtime_dir: Path) -> None:
        self.runtime_dir = runtime_dir
        self._shelf = Shelf(runtime_dir / NAME)

    def load(self) -> dict[str, Entry]:
        """The entries by seat. A file that is missing, torn or foreign is no entry: the tags still tell what is ours."""
        found = map(_read, self._shelf.load().values())
        return {entry.place: entry for entry in found if entry is not None}

    def update(self, entry: Entry) -> None:
        """Write an entry down. OSError: the disk does not take it."""
        self._shelf.put(entry.place, json.dumps(asdict(entry)).encode())

    def remove(self, place: str) -> None:
        """Forget a seat's client. OSError: the disk does not take it."""
        self._shelf.remove(place)

    def clear(self, keep: Container[str] = ()) -> None:
        """Forget all but these seats' clients. OSError: the disk does not take it."""
        if not keep:
            self._shelf.clear()
            return
        for place in self._shelf.load():
            if place not in keep:
                self._shelf.remove(place)


def _read(content: bytes) -> Entry | None:
    try:
        return _entry(json.loads(content))
    except (ValueError, RecursionError):
        return None


def _entry(value: Any) -> Entry | None:
    try:
        entry = Entry(**value)
    except TypeError:
        return None
    numbers, words = (entry.pid, entry.start, entry.session, entry.seat), (entry.tunnel, entry.boot, entry.id)
    sound = all(type(n) is int for n in numbers) and all(isinstance(w, str) for w in words)
    return entry if sound and entry.pid > 1 and entry.format == FORMAT else None
