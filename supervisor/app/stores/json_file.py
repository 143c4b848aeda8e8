"""A small JSON file in `state_dir` that outlives the daemon: its format is versioned, a write replaces it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from supervisor import disk
from supervisor.core.formats import Document, opened

T = TypeVar("T")


class JsonFile(Generic[T]):
    """One value of type `T`."""

    def __init__(self, path: Path, document: Document[T], format_0: Callable[[Any], T]) -> None:
        """`format_0` reads what version 0.1.0 wrote, a document without a format; NotUnderstood."""
        self.path = path
        self._document, self._format_0 = document, format_0

    def load(self) -> T | None:
        """The value; None: there is no file. OSError: cannot be read; ValueError: is not understood."""
        try:
            content = disk.read(self.path)
        except FileNotFoundError:
            return None
        format, raw = opened(content, self._document.format)
        return self._document.read(content) if format > 0 else self._format_0(raw)

    def save(self, value: T, *, sync: bool = False) -> None:
        """Rewrite the file; `sync`: wait until the disk has it. OSError."""
        disk.replace(self.path, self._document.written(value), sync=sync)
