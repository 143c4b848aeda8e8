"""The tunnels that an operator has stopped: `facilitator stop` outlives restarts of daemon and host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from supervisor.app.stores.json_file import JsonFile
from supervisor.core.formats import NotUnderstood, document

NAME = "held.json"


@dataclass(frozen=True, slots=True)
class _Held:
    """The file. Format 0 was the list alone."""

    held: tuple[str, ...]


DOCUMENT = document(_Held, 1)


def _format_0(raw: Any) -> _Held:
    if not isinstance(raw, list) or not all(isinstance(name, str) for name in raw):
        raise NotUnderstood("it is no list of names")
    return _Held(tuple(raw))


class StoppedTunnels:
    """The names, in `state_dir`."""

    def __init__(self, state_dir: Path) -> None:
        """Without a file no tunnel is stopped. So with one that is not understood, but that is logged."""
        self._file = JsonFile(state_dir / NAME, DOCUMENT, _format_0)
        self._names = frozenset[str]()
        try:
            stored = self._file.load()
            self._names = frozenset(() if stored is None else stored.held)
        except (OSError, ValueError) as error:
            text = "which tunnels were stopped is not known: all of them start; facilitator stop NAME"
            structlog.get_logger().error(text, path=str(self._file.path), why=str(error))
        self._on_disk = self._names

    @property
    def names(self) -> frozenset[str]:
        """Tunnels that stay down until `facilitator start`."""
        return self._names

    def hold(self, tunnel: str) -> None:
        """Add a tunnel. OSError: it is stopped, but a restart of the daemon will start it."""
        self._set(self._names | {tunnel})

    def release(self, tunnel: str) -> None:
        """Remove a tunnel. OSError: it may start, but a restart of the daemon will stop it again."""
        self._set(self._names - {tunnel})

    def _set(self, names: frozenset[str]) -> None:
        self._names = names
        if names == self._on_disk:
            return
        self._file.save(_Held(tuple(sorted(names))), sync=True)
        self._on_disk = names
