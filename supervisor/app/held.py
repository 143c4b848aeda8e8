"""Which tunnels an operator has stopped: a small file, so that `stop` holds over restarts of the daemon and of the host."""

from __future__ import annotations

import json
from pathlib import Path

from supervisor import disk

_NAME = "held.json"


class Held:
    """The names, on disk in `state_dir`."""

    def __init__(self, state_dir: Path) -> None:
        """A missing or torn file means: none."""
        self._path = state_dir / _NAME
        try:
            names = json.loads(disk.read(self._path))
            self._names = frozenset(name for name in names if isinstance(name, str))
        except (OSError, ValueError, TypeError):
            self._names = frozenset()
        self._on_disk = self._names

    @property
    def names(self) -> frozenset[str]:
        """Tunnels that stay down until `start`."""
        return self._names

    def hold(self, tunnel: str) -> None:
        """Remember a stop. OSError: it holds, but not over a restart."""
        self._set(self._names | {tunnel})

    def release(self, tunnel: str) -> None:
        """Forget it. OSError: see `hold`."""
        self._set(self._names - {tunnel})

    def _set(self, names: frozenset[str]) -> None:
        self._names = names
        if names == self._on_disk:
            return
        disk.replace(self._path, json.dumps(sorted(names)).encode(), sync=True)
        self._on_disk = names
