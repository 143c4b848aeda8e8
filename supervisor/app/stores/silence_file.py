"""The silences, in `state_dir`: `facilitator silence` writes them, with or without a daemon."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor import disk
from supervisor.app.stores.json_file import JsonFile
from supervisor.core.alerting.silences import Silence
from supervisor.core.formats import NotUnderstood, document

NAME = "silences.json"
_LATEST = 32503680000.0  # the year 3000: a moment after it is none


@dataclass(frozen=True, slots=True)
class _StoredSilences:
    silences: tuple[Silence, ...]


DOCUMENT = document(_StoredSilences, 1)


def _format_0(raw: Any) -> _StoredSilences:
    raise NotUnderstood("it names no format")


class SilenceFile:
    """All silences that are not over."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / NAME

    def load(self) -> tuple[Silence, ...]:
        """Nothing where there is no file. OSError; ValueError: it is not understood."""
        stored = JsonFile(self.path, DOCUMENT, _format_0).load()
        silences = () if stored is None else stored.silences
        if any(each.until > _LATEST for each in silences):
            raise NotUnderstood("a silence in it has no end")
        return tuple(each for each in silences if each.until > time.time())

    def add(self, silence: Silence) -> None:
        """In place of an earlier one about the same. OSError, ValueError."""
        self._save((*(each for each in self.load() if each.tunnel != silence.tunnel), silence))

    def end(self, tunnel: str) -> bool:
        """Whether there was one. OSError, ValueError."""
        before = self.load()
        after = tuple(each for each in before if each.tunnel != tunnel)
        self._save(after)
        return after != before

    def _save(self, silences: tuple[Silence, ...]) -> None:
        """Root writes it (sudo facilitator silence), and the daemon's own user reads it."""
        disk.replace(self.path, DOCUMENT.written(_StoredSilences(silences)), sync=True, as_owner=True)
