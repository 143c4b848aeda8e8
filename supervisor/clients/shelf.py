"""A directory of small JSON files, one for each name, so that a change costs the same however many there are.

What outlives a crash of the daemon stands on two of them in `runtime_dir`: its clients (`clients.journal`) and what it knew of its tunnels
(`app.memory`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

_SUFFIX = ".json"


class Shelf:
    """A file is replaced in one step: after a crash at any point it is the old one, the new one, or not there."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self) -> dict[str, bytes]:
        """The contents by name; what cannot be read is not there."""
        found = {}
        for path in self._directory.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                found[path.name.removesuffix(_SUFFIX)] = path.read_bytes()
        return found

    def put(self, name: str, content: bytes) -> None:
        """Write a file, or write it anew. OSError: the disk does not take it."""
        path = self._path(name)
        draft = f"{path}.new"
        try:
            _write(draft, content)
        except FileNotFoundError:       # the first one
            os.mkdir(self._directory, 0o700)
            _write(draft, content)
        os.replace(draft, path)

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


def _write(path: str, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb", buffering=0) as file:
        file.write(content)
