"""The journal of client processes: small files that survive a crash of the daemon. `adoption` and `sweep`
read them at the next start.

The kernel reuses pids, so a process is recognised by pid, start time and boot id together.
"""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from supervisor.clients.json_store import JsonStore
from supervisor.core.formats import parsed
from tunnels.base import slot_name

NAME = "journal"
FORMAT = 2  # 2: `seat` became `slot`
_KNOWN = (0, 1, FORMAT)  # formats that are read
_MAX_PID = 1 << 22  # proc(5)
_MAX_NUMBER = 1 << 63


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One client process."""

    tunnel: str
    session: int
    id: str
    pid: int
    start: int  # clock ticks since boot
    boot: str
    device: str | None = None
    port: int | None = None
    lane: int | None = None
    management: str | None = None
    slot: int = 0
    kind: str = ""
    notify: bool = False  # it was given a NOTIFY_SOCKET
    key: str = ""  # that the daemon sends first on its management socket; empty: none is needed
    output: int | None = None  # offset at which this session begins in the output file of its slot
    format: int = FORMAT  # entries of other formats are ignored

    @property
    def place(self) -> str:
        """Name of the slot: `NAME` or `NAME~`."""
        return slot_name(self.tunnel, self.slot)


class Journal:
    """`runtime_dir/journal/`: one file for each slot that has a client."""

    def __init__(self, runtime_dir: Path) -> None:
        self.runtime_dir = runtime_dir
        self._store = JsonStore(runtime_dir / NAME)

    def load(self) -> dict[str, JournalEntry]:
        """The entries by slot name. A missing, torn or foreign file is ignored: the tags still show which
        processes are ours.
        """
        found = map(_read, self._store.load().values())
        return {entry.place: entry for entry in found if entry is not None}

    def update(self, entry: JournalEntry) -> None:
        """Write an entry. OSError: it cannot be written."""
        self._store.put(entry.place, json.dumps(asdict(entry)).encode())

    def remove(self, place: str) -> None:
        """Delete the entry of a slot. OSError: it cannot be deleted."""
        self._store.remove(place)

    def clear(self, keep: Container[str] = ()) -> None:
        """Delete all entries but those of these slots. OSError: they cannot be deleted."""
        if not keep:
            self._store.clear()
            return
        for place in self._store.load():
            if place not in keep:
                self._store.remove(place)


def _read(content: bytes) -> JournalEntry | None:
    try:
        return _entry(_upgraded(parsed(content)))
    except (ValueError, RecursionError):
        return None


def _upgraded(value: Any) -> Any:
    """An entry of an earlier format as one of today's; anything else as it is."""
    if not isinstance(value, dict):
        return value
    format = value.pop("format", 0)
    if type(format) is int and format in _KNOWN:
        if format < FORMAT and "seat" in value:
            value["slot"] = value.pop("seat")
        format = FORMAT
    return {**value, "format": format}


def _entry(value: Any) -> JournalEntry | None:
    try:
        entry = JournalEntry(**value)
    except TypeError:
        return None
    numbers, words = (
        (entry.start, entry.session, entry.slot),
        (entry.tunnel, entry.boot, entry.id, entry.kind, entry.key),
    )
    sound = (
        type(entry.pid) is int
        and 1 < entry.pid <= _MAX_PID
        and all(type(n) is int and 0 <= n < _MAX_NUMBER for n in numbers)
    )
    sound = sound and type(entry.format) is int and entry.format == FORMAT
    return entry if sound and all(isinstance(word, str) for word in words) and _is_carrier(entry) else None


def _is_carrier(entry: JournalEntry) -> bool:
    paths, numbers = (entry.device, entry.management), (entry.port, entry.lane, entry.output)
    return all(path is None or (isinstance(path, str) and "\0" not in path) for path in paths) and all(
        number is None or (type(number) is int and 0 <= number < _MAX_NUMBER) for number in numbers
    )
