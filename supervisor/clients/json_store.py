"""A directory of small JSON files, one per name, so that the cost of a change does not depend on their
number.

Two of them in `runtime_dir` survive a crash of the daemon: the journal of clients
(`supervisor.clients.process_journal`) and the state of tunnels (`supervisor.app.stores.state_store`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from supervisor import disk

_SUFFIX = ".json"


class JsonStore:
    """Reads and writes the files. Each is replaced atomically: after a crash it is the old one, the new one,
    or missing.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self) -> dict[str, bytes]:
        """The contents by name; files that cannot be read are left out."""
        found = {}
        for path in self._directory.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                found[path.name.removesuffix(_SUFFIX)] = disk.read(path)
        return found

    def put(self, name: str, content: bytes) -> None:
        """Create or replace a file. OSError: it cannot be written."""
        try:
            disk.replace(self._path(name), content)
        except FileNotFoundError:  # the first one
            os.mkdir(self._directory, 0o700)
            disk.replace(self._path(name), content)

    def remove(self, name: str) -> None:
        """Delete a file, if it exists. OSError: it cannot be deleted."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(name))

    def clear(self) -> None:
        """Delete all files. OSError: they cannot be deleted."""
        if self._directory.is_dir():
            shutil.rmtree(self._directory)

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}{_SUFFIX}"
