"""Profiles: files that a customer sends, which may name further files. Reports what is wrong with one and in
which line, and which files it may name.

    settings -> Input (config) -> kind.referenced_inputs -> Input (ReferencedFile) -> the daemon reads it
             -> kind.launch

A profile is untrusted. A file that it names must lie in the profile's own directory or below. The daemon
reads it and passes the content to the client, so that the client itself opens no path of the profile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tunnels.base import Input, ReferencedFile

COMPANION = "beside/"  # the names of such inputs begin with this; no other input's name has a slash


class ProfileError(ValueError):
    """A profile that cannot be run: why, in which line of it, and of which file."""

    def __init__(self, text: str, line: int | None = None, path: Path | None = None) -> None:
        super().__init__(text, line, path)
        self.text, self.line, self.path = text, line, path

    def __str__(self) -> str:
        if self.path is None:
            return self.text if self.line is None else f"line {self.line}: {self.text}"
        return f"{self.path}: {self.text}" if self.line is None else f"{self.path}:{self.line}: {self.text}"


@contextlib.contextmanager
def of_file(path: Path) -> Iterator[None]:
    """Let a ProfileError from inside name this file."""
    try:
        yield
    except ProfileError as error:
        raise ProfileError(error.text, error.line, path) from None


class Value(str):
    """A value of a profile that knows its line."""

    line: int

    def __new__(cls, text: str, line: int) -> Value:
        """The text of this line."""
        value = super().__new__(cls, text)
        value.line = line
        return value


def companion(profile: Path, name: str, option: str, line: int, secret: bool = False) -> Input:
    """The file that an option of the profile names. ProfileError: it does not lie beside the profile."""
    below = _below(profile, name, option, line)
    return Input(COMPANION + below, ReferencedFile(profile, below, option, line, secret))


def folder(profile: Path, name: str) -> Input:
    """All files of a folder beside the profile, which need not exist."""
    return Input(COMPANION + name, ReferencedFile(profile, name, folder=True))


def _below(profile: Path, name: str, option: str, line: int) -> str:
    """The name as seen from the profile's directory."""
    below = name.removeprefix(f"{profile.parent}/") if profile.is_absolute() else name
    parts = PurePosixPath(below).parts
    if not parts or "\0" in below or below.startswith("/") or ".." in parts:
        remedy = "copy it there, and name it without a path"
        raise ProfileError(
            f"{option} names {name!r}, a file that does not lie beside the profile; {remedy}", line, profile
        )
    return "/".join(parts)
