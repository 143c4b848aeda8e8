"""A file of lines that is rotated by size: `NAME`, `NAME.1` (the previous one), ... For one thread, which may
block on the disk.

Lines survive a SIGKILL when `append` has returned (write(2)), and a power cut when `sync` has (fsync(2)).
"""

from __future__ import annotations

import contextlib
import os
from datetime import datetime
from pathlib import Path

from supervisor import disk

_MAX_LINE_BYTES = 1 << 16  # the last line is looked for in so much of the end


class RotatedFile:
    """Appends to a file that only its owner may read. Every method but `close` may raise OSError; the next
    call continues where that one failed.
    """

    def __init__(self, path: Path, max_size: int, keep: int, keep_for: float | None = None) -> None:
        """`max_size` in bytes; `keep` is the number of older files that are kept. `keep_for`: no line is kept
        for longer than these seconds, and each at least half as long; None: as long as its file.
        """
        self.path, self._max_size, self._keep, self._keep_for = path, max_size, keep, keep_for
        self._began: float | None = None  # Unix time of the first line; None: it is empty
        self._fd: int | None = None
        self._rest = memoryview(b"")  # what is left of a partial write

    def open(self) -> None:
        """Open the file, if it is not open. An unfinished last line gets its newline."""
        if self._fd is not None:
            return
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = disk.opened(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        try:
            os.fchmod(fd, 0o600)
            size = os.fstat(fd).st_size
            if size and not self._rest and os.pread(fd, 1, size - 1) != b"\n":
                os.write(fd, b"\n")
            self._began = _first_moment(fd) if size else None
        except OSError:
            os.close(fd)
            raise
        self._fd = fd

    def last(self) -> tuple[bytes, float | None] | None:
        """The last whole line, and the Unix time until which `sync` declared the file complete (None: it did
        not); None: nothing was ever written.
        """
        for path in (self.path, _older(self.path, 1)):
            with contextlib.suppress(FileNotFoundError), open(disk.opened(path, os.O_RDONLY), "rb") as file:
                about = os.fstat(file.fileno())
                file.seek(max(0, about.st_size - _MAX_LINE_BYTES))
                lines = file.read().split(b"\n")
                # Both times are equal only if `sync` has set them, and nothing was written or read since.
                if len(lines) > 1:
                    return lines[-2], about.st_mtime if about.st_mtime_ns == about.st_atime_ns else None
        return None

    def append(self, data: bytes) -> None:
        """Write whole lines, after what an earlier call could not write. After an OSError call again with
        `b""`.
        """
        self.open()
        between_lines = not self._rest
        self._rest = memoryview(bytes(self._rest) + data)
        if between_lines and self._fd is not None and os.fstat(self._fd).st_size >= self._max_size:
            self._rotate()
        while self._rest:
            assert self._fd is not None
            self._rest = self._rest[os.write(self._fd, self._rest) :]

    def sync(self, until: float) -> None:
        """fsync the file, and declare it complete until this moment (Unix time) by its access and
        modification times.
        """
        self.open()
        assert self._fd is not None
        if self._replaced():
            self.close()
            self.open()
        if self._keep_for is not None:
            self._expire(until, self._keep_for / 2)
        os.utime(self._fd, (until, until))
        os.fsync(self._fd)

    def _expire(self, now: float, half: float) -> None:
        """Rotate the file before its first line is too old; delete older files whose last line is."""
        if self._began is None:
            self._began = now
        elif now - self._began >= half and not self._rest:
            self._rotate()
        for number in range(1, self._keep + 1):
            with contextlib.suppress(FileNotFoundError):
                if now - _older(self.path, number).stat().st_mtime >= half:
                    _older(self.path, number).unlink()

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
        self._fd = None

    def _replaced(self) -> bool:
        """True if another process has moved or removed the file (logrotate, an operator)."""
        assert self._fd is not None
        ours = os.fstat(self._fd)
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return True
        return (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino)

    def _rotate(self) -> None:
        """Rename each file to the next older name; the oldest is deleted. Only between lines."""
        assert self._fd is not None
        os.fsync(self._fd)
        self.close()
        for number in range(self._keep, 1, -1):
            with contextlib.suppress(FileNotFoundError):
                _older(self.path, number - 1).replace(_older(self.path, number))
        with contextlib.suppress(FileNotFoundError):
            if self._keep:
                self.path.replace(_older(self.path, 1))
            else:
                self.path.unlink()
        self.open()


def _first_moment(fd: int) -> float | None:
    """Unix time of the first line; that of the last change, if it does not say."""
    try:
        return datetime.fromisoformat(os.pread(fd, 64, 0).split(b'"')[3].decode()).timestamp()
    except (ValueError, IndexError):
        return os.fstat(fd).st_mtime


def _older(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")
