"""Reads files below a directory by untrusted names, without ever leaving the directory (like openat2(2) with
RESOLVE_BENEATH, but absolute links into the directory are followed).

Each component of the path is opened relative to the one before, never through a symbolic link: links are read
and resolved here. So whoever can write there cannot redirect us between check and read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

MAX_BYTES = 4 << 20  # of a file
MAX_FILES = 256  # of a folder
_MAX_LINKS = 40  # symbolic links in one path: the kernel's limit, see path_resolution(7)
_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def read_regular(path: str | Path) -> bytes:
    """The content of a regular file of a sane size. OSError; ValueError with a sentence."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)  # a FIFO must not block us
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("it is not a regular file")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
    return content


def read_beneath(directory: Path, name: str, *, links: bool = True) -> bytes:
    """The content of a regular file below the directory. `links`: symbolic links are followed. OSError;
    ValueError with a sentence.
    """
    with _found(directory, name, links) as fd:
        if not stat.S_ISREG(os.fstat(fd).st_mode):  # before it is opened: to open a device may have an effect
            raise ValueError("it is not a regular file")
        return read_regular(f"/proc/self/fd/{fd}")


def names_beneath(directory: Path, name: str) -> list[str]:
    """What a folder below the directory holds, but for further folders; nothing where it does not exist.
    OSError; ValueError.
    """
    with contextlib.suppress(FileNotFoundError), _found(directory, name) as fd:
        with os.scandir(f"/proc/self/fd/{fd}") as entries:
            names = sorted(entry.name for entry in entries if not entry.is_dir())
        if len(names) > MAX_FILES:
            raise ValueError(f"it holds more than {MAX_FILES} files")
        return names
    return []


@contextlib.contextmanager
def _found(directory: Path, name: str, follow: bool = True) -> Iterator[int]:
    """A descriptor (O_PATH) of what lies there."""
    with contextlib.ExitStack() as opened:

        def step(part: str, above: int | None = None) -> int:
            fd = os.open(
                part, _STEP if above is not None else os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=above
            )
            opened.callback(os.close, fd)
            return fd

        way, parts, links = [step(str(directory))], name.split("/"), 0  # the directories down to where we are
        while parts:
            part = parts.pop(0)
            if part == "..":
                way.pop()
                if not way:
                    raise ValueError(_LEAVES)
            elif part not in ("", "."):
                fd = step(part, way[-1])
                if not stat.S_ISLNK(os.fstat(fd).st_mode):
                    way.append(fd)
                    continue
                if not follow:
                    raise ValueError("it is a symbolic link, or lies behind one; copy the file")
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                parts = _target(directory, os.readlink("", dir_fd=fd)).split("/") + parts
                way = way[:1] if parts[0] == "" else way
        yield way[-1]


_LEAVES = "a symbolic link leads out of the profile's directory; copy the file"


def _target(directory: Path, target: str) -> str:
    """Where a link leads: relative, or, with a slash first, from the directory."""
    if not target.startswith("/"):
        return target
    if not target.startswith(f"{directory}/"):
        raise ValueError(_LEAVES)
    return target.removeprefix(str(directory))
