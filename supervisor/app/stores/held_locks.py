"""The locks that this member holds: a small file in `runtime_dir`, for the daemon that follows."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import structlog

from supervisor.app.stores.json_file import JsonFile
from supervisor.core.formats import NotUnderstood, document
from supervisor.fleet.held_locks import HeldLocks

NAME = "held-locks.json"
DOCUMENT = document(HeldLocks, 2)


def _format_0(raw: Any) -> HeldLocks:
    raise NotUnderstood("version 0.1.0 wrote no such file")


class HeldLockFile:
    """Without it, or with one that is not understood, nothing is held: exclusive clients that run then log
    off, and log in again with a new lock.
    """

    def __init__(self, runtime_dir: Path) -> None:
        self._file = JsonFile(runtime_dir / NAME, DOCUMENT, _format_0)

    def load(self) -> HeldLocks | None:
        """What an earlier daemon held."""
        try:
            return self._file.load()
        except (OSError, ValueError) as error:
            self._log("the locks of an earlier daemon are not known", error)
            return None

    def keep(self, held: HeldLocks | None) -> None:
        """Rewrite it, or remove it."""
        try:
            if held is None:
                self._file.path.unlink(missing_ok=True)
            else:
                self._file.save(held)
        except OSError as error:
            self._log("held locks cannot be recorded: the next daemon has to log in again", error)
            with contextlib.suppress(OSError):  # what stands there is not true any more
                self._file.path.unlink(missing_ok=True)

    def _log(self, text: str, error: Exception) -> None:
        structlog.get_logger().warning(text, path=str(self._file.path), why=str(error))
