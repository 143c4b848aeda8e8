"""Finds the files that a configuration includes (`include: conf.d/*.yaml`)."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

from common.configuration.sources import SourceFile, include_pattern, join

MAX_FILES = 10_000


def with_included(main: str, path: Path, read: Callable[[Path], str]) -> str:
    """The text of the configuration at `path`, whose own text is `main`, with its included files. Raises what
    `read` raises.
    """
    return join(main, [SourceFile(str(name), read(path.parent / name)) for name in _names(main, path)])


def readable(path: Path) -> str:
    """The text of a configuration with its included files, as far as they are text."""
    return with_included(_readable(path), path, _readable)


def watched(path: Path) -> tuple[Path, ...]:
    """The files and the folder whose change is a change of the configuration."""
    pattern = include_pattern(_readable(path))
    return files(path) if pattern is None else (*files(path), path.parent / Path(pattern).parent)


def files(path: Path) -> tuple[Path, ...]:
    """The main file and those that it includes."""
    return (path, *(path.parent / name for name in _names(_readable(path), path)))


def _readable(path: Path) -> str:
    """To read anything but a regular file could block."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return ""
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _names(main: str, path: Path) -> list[Path]:
    """The included files, in order. Only the last part of the pattern has wildcards; hidden files are left
    out. A folder that cannot be listed stands for its files: to read it says why.
    """
    pattern = include_pattern(main)
    if pattern is None:
        return []
    parent, slash, last = pattern.rpartition("/")
    folder = Path(parent + slash)
    try:
        names = os.listdir(path.parent / folder)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return []
    except OSError:
        return [folder]
    wanted = [each for each in names if not each.startswith(".") and fnmatchcase(each, last)]
    return [folder / each for each in sorted(wanted) if each.isprintable()][:MAX_FILES]
