"""A directory of small JSON files, one for each name, so that a change costs the same however many there are.

What outlives a crash of the daemon stands on two of them in `runtime_dir`: its clients
(`clients.process_journal`) and what it knew of its tunnels (`app.stores.state_store`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from supervisor import disk

_SUFFIX = ".json"


class JsonStore:
    """A file is replaced in one step: after a crash at any point it is the old one, the new one, or not
    there.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self) -> dict[str, bytes]:
        """The contents by name; what cannot be read is not there."""
        found = {}
        for path in self._directory.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                found[path.name.removesuffix(_SUFFIX)] = disk.read(path)
        return found

    def put(self, name: str, content: bytes) -> None:
        """Write a file, or write it anew. OSError: the disk does not take it."""
        try:
            disk.replace(self._path(name), content)
        except FileNotFoundError:  # the first one
            os.mkdir(self._directory, 0o700)
            disk.replace(self._path(name), content)

    def remove(self, name: str) -> None:
        """Take a file away. OSError: the disk does not take it."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(name))

    def clear(self) -> None:
        """Take all of them away. OSError: the disk does not take it."""
        if self._directory.is_dir():
            shutil.rmtree(self._directory)

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}{_SUFFIX}"
