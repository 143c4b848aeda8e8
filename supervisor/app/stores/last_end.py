"""Why the last daemon ended: a small file in `state_dir`, for `status` of the next one."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from supervisor.app.stores.json_file import JsonFile
from supervisor.control.stop_reason import StopVerdict
from supervisor.core.formats import NotUnderstood, document
from supervisor.core.humanize import iso
from supervisor.core.views.documents import EndEntry

NAME = "last-end.json"


@dataclass(frozen=True, slots=True)
class _StoredEnd:
    reason: str
    text: str
    at: float  # Unix time in seconds


DOCUMENT = document(_StoredEnd, 1)


def _format_0(raw: Any) -> _StoredEnd:
    raise NotUnderstood("version 0.1.0 wrote no such file")


class LastEnd:
    """Reads what the last daemon has left, once, and writes what this one leaves."""

    def __init__(self, state_dir: Path) -> None:
        """A file that cannot be understood is no file. One that was read is gone: a crash leaves none."""
        self._file = JsonFile(state_dir / NAME, DOCUMENT, _format_0)
        self._read: _StoredEnd | None = None
        with contextlib.suppress(OSError, ValueError):
            self._read = self._file.load()
        with contextlib.suppress(OSError):
            self._file.path.unlink()

    @property
    def entry(self) -> EndEntry | None:
        """The end of the last daemon; None: it crashed, or there was none."""
        end = self._read
        return None if end is None else {"reason": end.reason, "text": end.text, "at": iso(end.at)}

    def write(self, verdict: StopVerdict, now: float) -> None:
        """This daemon ends for this reason. `now`: Unix time in seconds."""
        try:
            self._file.save(_StoredEnd(verdict.reason.value, verdict.text, now))
        except OSError as error:
            structlog.get_logger().warning("why this daemon ends cannot be written down", error=str(error))
