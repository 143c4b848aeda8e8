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
from pathlib import Path, PurePosixPath, PureWindowsPath

from tunnels.base import FileFinding, Input, ReferencedFile, Secret, place_of
from tunnels.recognition import windows_path

PREFIX = "beside/"  # of the names of such inputs; names of other inputs have no slash


class ProfileError(ValueError):
    """A file that cannot be used: sentence, line number and file."""

    def __init__(self, text: str, line: int | None = None, path: Path | Secret | None = None) -> None:
        super().__init__(text, line, path)
        self.text, self.line, self.path = text, line, path

    @property
    def finding(self) -> FileFinding:
        """The same as a finding of an examination."""
        return FileFinding(self.text, self.path, self.line or 1)

    def __str__(self) -> str:
        if self.path is None:
            return self.text if self.line is None else f"line {self.line}: {self.text}"
        place = place_of(self.path)
        return f"{place}: {self.text}" if self.line is None else f"{place}:{self.line}: {self.text}"


class EmptySecret(ProfileError):
    """A secret in a profile is empty, which counts as missing: nothing is tried with it."""


@contextlib.contextmanager
def of_file(path: Path | Secret) -> Iterator[None]:
    """Add this path to a ProfileError that is raised inside and has none."""
    try:
        yield
    except ProfileError as error:
        raise type(error)(error.text, error.line, error.path or path) from None


class Value(str):
    """A value of a profile, with its line number."""

    line: int

    def __new__(cls, text: str, line: int) -> Value:
        """The text, which was found in this line."""
        value = super().__new__(cls, text)
        value.line = line
        return value


def referenced_file(profile: Path, name: str, option: str, line: int, secret: bool = False) -> Input:
    """The input for a file that an option of the profile names. ProfileError: it is not beside
    the profile.
    """
    below = _below(profile, name, option, line)
    return Input(PREFIX + below, ReferencedFile(profile, below, option, line, secret))


def folder(profile: Path, name: str, secret: bool = False) -> Input:
    """The input for all files of a folder beside the profile, which need not exist."""
    return Input(PREFIX + name, ReferencedFile(profile, name, secret=secret, folder=True))


def _below(profile: Path, name: str, option: str, line: int) -> str:
    """The name relative to the profile's directory."""
    below = name.removeprefix(f"{profile.parent}/") if profile.is_absolute() else name
    parts = PurePosixPath(below).parts
    if not parts or "\0" in below or below.startswith("/") or ".." in parts or windows_path(name):
        why = "a file that does not lie beside the profile; copy it there, and name it without a path"
        if windows_path(name):
            own = PureWindowsPath(name).name
            why = f"a path of Windows; copy the file beside the profile, and write: {option} {own}"
        raise ProfileError(f"{option} names {name!r}, {why}", line, profile)
    return "/".join(parts)
