"""What outlives a crash of the daemon: a small file that says which client processes it had. `sweep` reads it at the next start.

A pid alone proves nothing, as the kernel uses pids again: it must have the recorded start time in the recorded boot.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

NAME = "journal.json"


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


class Journal:
    """`runtime_dir/journal.json`, rewritten atomically at each change."""

    def __init__(self, runtime_dir: Path) -> None:
        self.runtime_dir = runtime_dir
        self._path = runtime_dir / NAME
        self._written: dict[str, str] = {}      # each entry as it stands in the file: only the changed one is encoded anew

    def load(self) -> dict[str, Entry]:
        """The entries by tunnel. A file that is missing, torn or foreign is an empty one: the tags still tell what is ours."""
        try:
            content = json.loads(self._path.read_bytes())
            entries = content["clients"].values() if content["version"] == 1 else ()
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            entries = ()
        found = {entry.tunnel: entry for entry in map(_entry, entries) if entry is not None}
        self._written = {name: _encoded(entry) for name, entry in found.items()}
        return found

    def update(self, entry: Entry) -> None:
        """Write an entry down. OSError: the disk does not take it."""
        self._written[entry.tunnel] = _encoded(entry)
        self._write()

    def remove(self, tunnel: str) -> None:
        """Forget a tunnel's client. OSError: the disk does not take it."""
        if self._written.pop(tunnel, None) is not None:
            self._write()

    def clear(self) -> None:
        """Forget all of them."""
        self._written = {}
        if self._path.exists():
            self._write()

    def _write(self) -> None:
        body = ",\n".join(self._written.values())
        draft = self._path.with_suffix(".new")
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(f'{{"version": 1, "clients": {{\n{body}\n}}}}\n')
        draft.replace(self._path)


def _encoded(entry: Entry) -> str:
    return f"{json.dumps(entry.tunnel)}: {json.dumps(asdict(entry))}"


def _entry(value: Any) -> Entry | None:
    try:
        entry = Entry(**value)
    except TypeError:
        return None
    numbers, words = (entry.pid, entry.start, entry.session), (entry.tunnel, entry.boot, entry.id)
    sound = all(type(n) is int for n in numbers) and all(isinstance(w, str) for w in words)
    return entry if sound and entry.pid > 1 else None
