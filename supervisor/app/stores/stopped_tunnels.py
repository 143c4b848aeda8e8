"""Which tunnels an operator has stopped: a small file, so that `stop` holds over restarts of the daemon
and of the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import structlog

from supervisor import disk
from supervisor.core.formats import NotUnderstood, document, opened

_NAME = "held.json"


@dataclass(frozen=True, slots=True)
class _Held:
    """The file. Format 0 was the list alone."""

    held: tuple[str, ...]


DOCUMENT = document(_Held, 1)


def _read(content: bytes) -> frozenset[str]:
    """NotUnderstood: this version cannot."""
    format, raw = opened(content, DOCUMENT.format)
    if format > 0:
        return frozenset(DOCUMENT.read(content).held)
    if not isinstance(raw, list) or not all(isinstance(name, str) for name in raw):
        raise NotUnderstood("it is no list of names")
    return frozenset(raw)


class StoppedTunnels:
    """The names, on disk in `state_dir`."""

    def __init__(self, state_dir: Path) -> None:
        """A missing file means: none. One that is not understood too, but then it is told: what was
        stopped will start.
        """
        self._path = state_dir / _NAME
        self._names = frozenset[str]()
        try:
            self._names = _read(disk.read(self._path))
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            text = "which tunnels were stopped is not known: all of them start; facilitator stop NAME"
            structlog.get_logger().error(text, path=str(self._path), why=str(error))
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
        disk.replace(self._path, DOCUMENT.written(_Held(tuple(sorted(names)))), sync=True)
        self._on_disk = names
