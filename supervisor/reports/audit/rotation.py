"""A file of lines that is rotated by size: `NAME`, `NAME.1` (the newest before it), ... For one thread,
which may wait for a disk.

Lines are in the kernel's hands when `append` returns (they survive a SIGKILL), and on the disk after `sync`
(they survive a power cut).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from supervisor import disk

_TAIL = 1 << 16  # bytes: the last line is within these


class RotatedFile:
    """Appends to a file that only its owner may read. Every method but `close` may raise OSError; the next
    call goes on from there.
    """

    def __init__(self, path: Path, max_size: int, keep: int) -> None:
        """`max_size` in bytes; `keep`: how many older files stay."""
        self.path, self._max_size, self._keep = path, max_size, keep
        self._fd: int | None = None
        self._rest = memoryview(b"")  # of what was to be written, when the disk took only a part

    def open(self) -> None:
        """Open it, if it is not open. A line that was left unfinished is ended."""
        if self._fd is not None:
            return
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = disk.opened(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        try:
            os.fchmod(fd, 0o600)
            size = os.fstat(fd).st_size
            if size and not self._rest and os.pread(fd, 1, size - 1) != b"\n":
                os.write(fd, b"\n")
        except OSError:
            os.close(fd)
            raise
        self._fd = fd

    def last(self) -> tuple[bytes, float | None] | None:
        """The last whole line, and until when `sync` said that nothing was to be added (Unix time); None:
        nothing was ever written.
        """
        for path in (self.path, _older(self.path, 1)):
            with contextlib.suppress(FileNotFoundError), open(disk.opened(path, os.O_RDONLY), "rb") as file:
                about = os.fstat(file.fileno())
                file.seek(max(0, about.st_size - _TAIL))
                lines = file.read().split(b"\n")
                # Both times are equal only where `sync` has set them, and nothing was written or read since.
                if len(lines) > 1:
                    return lines[-2], about.st_mtime if about.st_mtime_ns == about.st_atime_ns else None
        return None

    def append(self, data: bytes) -> None:
        """Write whole lines. What an earlier call could not write comes first; so whoever gets an OSError
        calls again, with nothing.
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
        """Bring everything to the disk, and note that nothing is missing until this moment (Unix time):
        the file's own times say so.
        """
        self.open()
        assert self._fd is not None
        if self._gone():
            self.close()
            self.open()
        os.utime(self._fd, (until, until))
        os.fsync(self._fd)

    def close(self) -> None:
        """Let go of the file."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
        self._fd = None

    def _gone(self) -> bool:
        """Did somebody else move or remove the file."""
        assert self._fd is not None
        ours = os.fstat(self._fd)
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return True
        return (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino)

    def _rotate(self) -> None:
        """Every file becomes one older; the oldest goes. Only between lines."""
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


def _older(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")
