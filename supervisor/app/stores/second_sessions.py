"""Which remote gateways allow a second session of the same account: tried once, not after each restart.

How long sessions live is read from the history instead (`supervisor.reports.history.recorder`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from supervisor.app.stores.json_file import JsonFile
from supervisor.core.formats import NotUnderstood, document
from supervisor.core.snapshot import Snapshot, Transition
from supervisor.core.state import Second

NAME = "second-sessions.json"


@dataclass(frozen=True, slots=True)
class _Seconds:
    """The file, by tunnel. Format 0 was the mapping alone."""

    second: dict[str, Second]


DOCUMENT = document(_Seconds, 1)


def _format_0(raw: Any) -> _Seconds:
    words = [second.value for second in Second]
    if not isinstance(raw, dict) or not all(word in words for word in raw.values()):
        raise NotUnderstood("it does not record how remote gateways treat a second session")
    return _Seconds({name: Second(word) for name, word in raw.items()})


class SecondSessions:
    """By tunnel, in `state_dir`; a recorder (`supervisor.outputs`)."""

    def __init__(self, state_dir: Path) -> None:
        """Without a file nothing is known. So with one that is not understood, but that is logged."""
        self._file = JsonFile(state_dir / NAME, DOCUMENT, _format_0)
        self._known: dict[str, Second] = {}
        try:
            stored = self._file.load()
            self._known = {} if stored is None else dict(stored.second)
        except (OSError, ValueError) as error:
            structlog.get_logger().warning(
                "what was learned about remote gateways is lost", path=str(self._file.path), why=str(error)
            )
        self._writable = True  # as far as the last write tells

    @property
    def known(self) -> dict[str, Second]:
        """What is known, by tunnel."""
        return dict(self._known)

    def record(self, transition: Transition, snapshot: Snapshot) -> None:
        """Write down what is new. A failed write is not repeated: after a restart it is tried once more."""
        second = snapshot.tunnels[transition.tunnel][1].known.second
        if second is Second.UNKNOWN or self._known.get(transition.tunnel) is second:
            return
        self._known[transition.tunnel] = second
        try:
            # without sync: the engine waits for this
            self._file.save(_Seconds(dict(sorted(self._known.items()))))
            self._writable = True
        except OSError as error:
            if self._writable:
                structlog.get_logger().error(
                    "what was learned about a remote gateway will be lost", error=str(error)
                )
            self._writable = False
