"""Our files in `runtime_dir` and `state_dir`, opened so that nothing in their place can block or mislead us.

A FIFO, device, symbolic link, directory or far too large file is none of ours: it is not read, but removed or
renamed, so that ours can take its name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

CONTROL_SOCKET = "control.sock"  # in runtime_dir
LOCK = "lock"  # in runtime_dir; the daemon holds an flock(2) on it
MAX_RECORD_BYTES = 1 << 20
_ASIDE = ".aside-"
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def opened(path: Path | str, flags: int, mode: int = 0o600) -> int:
    """A descriptor of a regular file; never follows a link, never blocks. OSError."""
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC, mode)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def read(path: Path | str, largest: int = MAX_RECORD_BYTES) -> bytes:
    """The content of a small regular file. OSError."""
    with open(opened(path, os.O_RDONLY), "rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise OSError(errno.EFBIG, f"it is larger than {largest} bytes", str(path))
    return content


def replace(
    path: Path | str, content: bytes, mode: int = 0o600, sync: bool = False, as_owner: bool = False
) -> None:
    """Replace a file atomically: after a crash it is the old or the new one. `as_owner`: the file belongs to
    the owner of its directory, as far as this user may give it away. OSError.
    """
    draft = f"{path}.new"
    fd = _created(draft, mode)
    with open(fd, "wb", buffering=0) as file:
        if as_owner:
            directory = os.stat(os.path.dirname(draft) or ".")
            with contextlib.suppress(PermissionError):
                os.fchown(fd, directory.st_uid, directory.st_gid)
        file.write(content)
        if sync:
            os.fsync(fd)
    try:
        os.replace(draft, path)
    except IsADirectoryError:
        make_way(path)
        os.replace(draft, path)


def _created(draft: str, mode: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        return opened(draft, flags, mode)
    except FileExistsError:  # of a write that a crash has interrupted, or of somebody else
        make_way(draft)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        return opened(draft, flags, mode)


def make_way(path: Path | str, *, directory: bool = False, largest: int | None = None) -> str | None:
    """Free this name for a regular file (or a `directory`): what was there, in words; None: nothing. OSError.

    A directory is renamed, everything else is removed.
    """
    what = unlike(path, directory=directory, largest=largest)
    if what is None:
        return None
    if what == "a directory":
        os.rename(path, _aside(path))
    else:
        os.unlink(path)
    return what


def unlike(path: Path | str, *, directory: bool = False, largest: int | None = None) -> str | None:
    """What is there instead of a regular file (or a `directory`), in words; None: such a file, or nothing."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISREG(found.st_mode):
        if directory:
            return "a file"
        return f"a file of {found.st_size} bytes" if largest is not None and found.st_size > largest else None
    what = next((words for test, words in _KINDS if test(found.st_mode)), "something else")
    return None if directory and what == "a directory" else what


def _aside(path: Path | str) -> str:
    names = (f"{path}{_ASIDE}{number}" for number in range(1 << 16))
    return next(name for name in names if not os.path.lexists(name))


def tidy(
    directory: Path,
    *,
    names: Iterable[str] | None = None,
    directories: bool = False,
    largest: int | None = None,
) -> Iterator[str]:
    """Free the name of a directory, and in it those of files (or `directories`): these `names`, or all.
    Yields a sentence for each that was freed.
    """
    yield from _tidied(directory, directory=True)
    for name in _names(directory) if names is None else names:
        yield from _tidied(directory / name, directory=directories, largest=largest)


def _tidied(path: Path, *, directory: bool, largest: int | None = None) -> Iterator[str]:
    try:
        what = make_way(path, directory=directory, largest=largest)
    except OSError as error:
        yield f"{path} does not belong to facilitator and cannot be removed: {error.strerror}"
    else:
        if what is not None:
            yield (
                f"{path} was {what}, which does not belong to facilitator; it was "
                f"{'renamed' if what == 'a directory' else 'removed'}"
            )


def _names(directory: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(directory) if _ASIDE not in entry.name]
    except OSError:
        return []
