"""What each far side makes of a second session: a small file, so that it is tried once and not after each
restart.

How long sessions live is not written here: the history has it (`reports.history.recorder`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import structlog

from supervisor import disk
from supervisor.core.formats import NotUnderstood, document, opened
from supervisor.core.state import Second, Snapshot, Transition

_NAME = "second-sessions.json"


@dataclass(frozen=True, slots=True)
class _Learned:
    """The file. Format 0 was the mapping alone."""

    second: dict[str, Second]


DOCUMENT = document(_Learned, 1)


def _read(content: bytes) -> dict[str, Second]:
    """NotUnderstood: this version cannot."""
    format, raw = opened(content, DOCUMENT.format)
    if format > 0:
        return DOCUMENT.read(content).second
    words = [second.value for second in Second]
    if not isinstance(raw, dict) or not all(word in words for word in raw.values()):
        raise NotUnderstood("it does not say what far sides make of a second session")
    return {name: Second(word) for name, word in raw.items()}


class Learned:
    """By tunnel, on disk in `state_dir`; a recorder (`supervisor.outputs`)."""

    def __init__(self, state_dir: Path) -> None:
        """A missing file means: nothing is known. So does one that is not understood, and that is told."""
        self._path = state_dir / _NAME
        self._known: dict[str, Second] = {}
        try:
            self._known = _read(disk.read(self._path))
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            structlog.get_logger().warning(
                "what was learned about far sides is forgotten", path=str(self._path), why=str(error)
            )
        self._usable = True

    @property
    def known(self) -> dict[str, Second]:
        """What is known, by tunnel."""
        return dict(self._known)

    def record(self, transition: Transition, snapshot: Snapshot) -> None:
        """Write down what is new. A disk that does not take it means that it is tried once more."""
        second = snapshot.tunnels[transition.tunnel][1].known.second
        if second is Second.UNKNOWN or self._known.get(transition.tunnel) is second:
            return
        self._known[transition.tunnel] = second
        try:
            self._write()
            self._usable = True
        except OSError as error:
            if self._usable:
                structlog.get_logger().error(
                    "what was learned about a far side will be forgotten", error=str(error)
                )
            self._usable = False

    def _write(self) -> None:
        # not waited for until the disk has it: the engine waits for us
        disk.replace(self._path, DOCUMENT.written(_Learned(dict(sorted(self._known.items())))))
