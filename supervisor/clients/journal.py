"""What outlives a crash of the daemon: small files that say which client processes it had. `sweep` reads it at the next start.

A pid alone proves nothing, as the kernel uses pids again: it must have the recorded start time in the recorded boot.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunnels.base import seat_name

NAME = "journal"
_SUFFIX = ".json"


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

    @property
    def place(self) -> str:
        """Name of the seat."""
        return seat_name(self.tunnel, self.seat)


class Journal:
    """`runtime_dir/journal/`: a file for each seat that has a client, so that a change costs the same however many there are.

    A file is replaced in one step: after a crash at any point it is the old one, the new one, or not there.
    """

    def __init__(self, runtime_dir: Path) -> None:
        self.runtime_dir = runtime_dir
        self._directory = runtime_dir / NAME

    def load(self) -> dict[str, Entry]:
        """The entries by seat. A file that is missing, torn or foreign is no entry: the tags still tell what is ours."""
        found = (_read(path) for path in self._directory.glob(f"*{_SUFFIX}"))
        return {entry.place: entry for entry in found if entry is not None}

    def update(self, entry: Entry) -> None:
        """Write an entry down. OSError: the disk does not take it."""
        path = self._path(entry.place)
        draft = f"{path}.new"
        try:
            _write(draft, entry)
        except FileNotFoundError:       # the first one
            os.mkdir(self._directory, 0o700)
            _write(draft, entry)
        os.replace(draft, path)

    def remove(self, place: str) -> None:
        """Forget a seat's client. OSError: the disk does not take it."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(place))

    def clear(self) -> None:
        """Forget all of them. OSError: the disk does not take it."""
        if self._directory.is_dir():
            shutil.rmtree(self._directory)

    def _path(self, place: str) -> str:
        return f"{self._directory}/{place}{_SUFFIX}"


def _write(path: str, entry: Entry) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb", buffering=0) as file:
        file.write(json.dumps(asdict(entry)).encode())


def _read(path: Path) -> Entry | None:
    try:
        return _entry(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError):
        return None


def _entry(value: Any) -> Entry | None:
    try:
        entry = Entry(**value)
    except TypeError:
        return None
    numbers, words = (entry.pid, entry.start, entry.session, entry.seat), (entry.tunnel, entry.boot, entry.id)
    sound = all(type(n) is int for n in numbers) and all(isinstance(w, str) for w in words)
    return entry if sound and entry.pid > 1 else None
