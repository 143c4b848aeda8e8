"""The silences, in `state_dir`: `facilitator silence` writes them, with or without a daemon."""

from __future__ import annotations

import json
import time
from pathlib import Path

from supervisor import disk
from supervisor.core.alerting.silences import Silence

NAME = "silences.json"
_FORMAT = 1


class SilenceFile:
    """All silences that are not over."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / NAME

    def load(self) -> tuple[Silence, ...]:
        """Nothing where there is no file. OSError; ValueError: it is not understood."""
        try:
            raw = json.loads(disk.read(self.path))
            if raw["format"] != _FORMAT:
                raise ValueError(f"its format {raw['format']} is not understood")
            found = [Silence(**each) for each in raw["silences"]]
        except FileNotFoundError:
            return ()
        except (LookupError, TypeError) as error:
            raise ValueError(f"it is not understood: {error}") from None
        return tuple(each for each in found if each.until > time.time())

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
        rows = [{name: getattr(each, name) for name in Silence.__slots__} for each in silences]
        disk.replace(self.path, json.dumps({"format": _FORMAT, "silences": rows}).encode(), sync=True)
