"""The last good configuration, kept in `state_dir` (0600). Secrets are references in it, as in the file.

A daemon that finds the configuration file broken while clients of the last daemon run goes on with this one:
to end without it would leave these clients without anybody who watches over them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from supervisor.app.files import errors_of, text_of
from supervisor.app.stores.json_file import JsonFile
from supervisor.clients.process_journal import Journal
from supervisor.clients.sweep import still_runs
from supervisor.config import Config, ConfigErrors, parse
from supervisor.core.exits import CannotStart
from supervisor.core.formats import NotUnderstood, document
from supervisor.early_close import remember, state_dirs
from supervisor.run_arguments import default_config
from tunnels.base import AnyKind

NAME = "last-configuration.json"


@dataclass(frozen=True, slots=True)
class _LastGood:
    path: str  # of the file that it was read from
    text: str


DOCUMENT = document(_LastGood, 1)


def _format_0(raw: Any) -> _LastGood:
    raise NotUnderstood("version 0.1.0 wrote no such file")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, the text that it was read from, and why that is not the file's (nothing: it is)."""

    config: Config
    text: str
    errors: tuple[str, ...] = ()


def loaded(path: Path, kinds: Mapping[str, AnyKind]) -> Loaded:
    """The file as it is now. ConfigErrors, CannotStart."""
    text = text_of(path)
    return Loaded(parse(text, str(path), kinds), text)


def load_or_last_good(path: Path, kinds: Mapping[str, AnyKind]) -> Loaded:
    """The file, or the last good one if the file is broken and clients run. ConfigErrors, CannotStart."""
    try:
        return loaded(path, kinds)
    except (ConfigErrors, CannotStart) as problem:
        last = _last_good(path, kinds)
        if last is None or not _clients_run(last.config.facilitator.runtime_dir):
            raise
        return replace(last, errors=tuple(errors_of(problem)))


def _last_good(path: Path, kinds: Mapping[str, AnyKind]) -> Loaded | None:
    for directory in state_dirs(_readable(path)):
        try:
            last = JsonFile(directory / NAME, DOCUMENT, _format_0).load()
            if last is not None and last.path == str(path.resolve()):
                return Loaded(parse(last.text, str(path), kinds), last.text)
        except (OSError, ValueError, ConfigErrors):  # no help: the file's own errors are told
            continue
    return None


def in_force(path: Path, state_dir: Path) -> bool:
    """Was this very text of the file the last one that a daemon with this `state_dir` took? Where this user
    may not look, the default file counts as it.
    """
    try:
        last = JsonFile(state_dir / NAME, DOCUMENT, _format_0).load()
    except PermissionError:
        return path.resolve() == default_config().resolve()
    except (OSError, ValueError):
        return False
    return last is not None and (last.path, last.text) == (str(path.resolve()), _readable(path))


def _readable(path: Path) -> str:
    """The text of a broken file, as far as it is text."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _clients_run(runtime_dir: Path) -> bool:
    return any(still_runs(entry) for entry in Journal(runtime_dir).load().values())


class LastConfiguration:
    """Keeps the text of the configuration file whenever it was accepted, and what it closes
    (`supervisor.early_close`).
    """

    def __init__(self, path: Path, state_dir: Path) -> None:
        self._path, self._state_dir = path, state_dir
        self._file = JsonFile(state_dir / NAME, DOCUMENT, _format_0)
        self._writable = True  # as far as the last write tells

    def keep(self, text: str, config: Config) -> None:
        """This text of the file was good. Without sync: after a power failure no clients run."""
        try:
            self._file.save(_LastGood(str(self._path.resolve()), text))
            remember(self._state_dir, text, config)
            self._writable = True
        except OSError as error:
            if self._writable:
                structlog.get_logger().warning(
                    "the configuration is not kept: a crash or a boot would not know it", error=str(error)
                )
            self._writable = False
