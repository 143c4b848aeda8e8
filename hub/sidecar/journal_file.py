"""The journal on disk: lines are appended, and it is rewritten when it has grown.

It must outlive the sidecar, not the host: with the host all sessions end too. So nothing is synced.
"""

from __future__ import annotations

import os
from pathlib import Path

from hub.core.sidecar.journal import JournalContent, journal_lines, read_journal

MAX_LINES = 20_000  # appended before it is rewritten
_MAX_BYTES = 256 << 20  # of a journal that is read


class JournalFile:
    """OSError from every method: the disk refuses."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._appended = 0

    def load(self) -> JournalContent:
        """What an earlier sidecar has left; the file is opened for what follows."""
        try:
            text = self._read()
        except FileNotFoundError:
            text = ""
        content = read_journal(text.splitlines())
        self.rewrite(content)
        return content

    @property
    def full(self) -> bool:
        """It should be rewritten."""
        return self._appended > MAX_LINES

    def append(self, line: str) -> None:
        """Add a line; a crash of the sidecar does not lose it."""
        os.write(self._fd, line.encode() + b"\n")
        self._appended += 1

    def rewrite(self, content: JournalContent) -> None:
        """Replace the file by the shortest one that says this."""
        draft = self._path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(draft, flags, 0o600)
        os.write(fd, "".join(f"{line}\n" for line in journal_lines(content)).encode())
        os.replace(draft, self._path)
        self.close()
        self._fd, self._appended = fd, 0

    def close(self) -> None:
        """No more lines."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read(self) -> str:
        with open(os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            return file.read(_MAX_BYTES).decode(errors="replace")
