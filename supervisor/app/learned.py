"""What each far side makes of a second session: a small file, so that it is tried once and not after each restart.

How long sessions live is not written here: the history has it (`reports.history`).
"""

from __future__ import annotations

import json
from pathlib import Path

import structlog

from supervisor import disk
from supervisor.core.state import Second, Snapshot, Transition

_NAME = "second-sessions.json"


class Learned:
    """By tunnel, on disk in `state_dir`; a recorder (`supervisor.outputs`)."""

    def __init__(self, state_dir: Path) -> None:
        """A missing or torn file means: nothing is known. So does a word of another version."""
        self._path = state_dir / _NAME
        try:
            said = dict(json.loads(disk.read(self._path)))
        except (OSError, ValueError, TypeError):
            said = {}
        words = {second.value for second in Second}
        self._known = {name: Second(word) for name, word in said.items() if word in words}
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
                structlog.get_logger().error("what was learned about a far side will be forgotten", error=str(error))
            self._usable = False

    def _write(self) -> None:
        # not waited for until the disk has it: the engine waits for us
        disk.replace(self._path, json.dumps(dict(sorted(self._known.items()))).encode())
