"""The last good configuration, kept in `state_dir` (0600). Secrets are references in it, as in the file.

A daemon that finds the configuration file broken while clients of the last daemon run goes on with this one:
to end without it would leave these clients without anybody who watches over them.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog

import common
import supervisor.config
import tunnels
from supervisor.app.files import errors_of, text_of
from supervisor.app.stores.json_file import JsonFile
from supervisor.clients.process_journal import Journal
from supervisor.clients.sweep import still_runs
from supervisor.config import Config, ConfigErrors
from supervisor.config.stored import config_as_plain, config_from_plain
from supervisor.core.exits import CannotStart
from supervisor.core.formats import NotUnderstood, document
from supervisor.early_close import remember, state_dirs
from supervisor.included import readable
from supervisor.run_arguments import default_config
from tunnels.base import AnyKind

NAME = "last-configuration.json"
Parse = Callable[[str, str], Config]  # text and name; ConfigErrors, CannotStart


@dataclass(frozen=True, slots=True)
class _LastGood:
    path: str  # of the file that it was read from
    text: str
    read_as: str = ""  # what the values depend on beside the text (`_reading`)
    config: Any = None  # the values, as `config.stored` writes them


DOCUMENT = document(_LastGood, 2)


def _format_0(raw: Any) -> _LastGood:
    raise NotUnderstood("version 0.1.0 wrote no such file")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, the text that it was read from, and why that is not the file's (nothing: it is)."""

    config: Config
    text: str
    errors: tuple[str, ...] = ()


class ConfigurationReader:
    """Reads the configuration file. What a daemon has taken before is not parsed again."""

    def __init__(self, path: Path, kinds: Mapping[str, AnyKind], parse: Parse | None = None) -> None:
        """`parse`: with these kinds; None: in this process."""
        self._path, self._kinds, self._parse = path, kinds, parse or _parsed_here(kinds)

    def load(self) -> Loaded:
        """The file as it is now. ConfigErrors, CannotStart."""
        return self._loaded(text_of(self._path))

    def load_or_last_good(self) -> Loaded:
        """The file, or the last good one if the file is broken and clients run. ConfigErrors, CannotStart."""
        try:
            return self.load()
        except (ConfigErrors, CannotStart) as problem:
            last = self._last_good()
            if last is None or not _clients_run(last.config.facilitator.runtime_dir):
                raise
            return replace(last, errors=tuple(errors_of(problem)))

    def _loaded(self, text: str) -> Loaded:
        known = (
            each for each in self._kept(text) if each.text == text and each.read_as == _reading(self._path)
        )
        for last in known:
            with contextlib.suppress(ValueError):
                return Loaded(config_from_plain(last.config, self._kinds), text)
        return Loaded(self._parse(text, str(self._path)), text)

    def _last_good(self) -> Loaded | None:
        for last in self._kept(readable(self._path)):
            with contextlib.suppress(ConfigErrors, CannotStart):  # no help: the file's own errors are told
                return self._loaded(last.text)
        return None

    def _kept(self, text: str) -> Iterator[_LastGood]:
        """What daemons have kept of this file, where it says that their state lies."""
        for directory in state_dirs(text):
            with contextlib.suppress(OSError, ValueError):
                last = JsonFile(directory / NAME, DOCUMENT, _format_0).load()
                if last is not None and last.path == str(self._path.resolve()):
                    yield last


def _parsed_here(kinds: Mapping[str, AnyKind]) -> Parse:
    from supervisor.config.parse import parse

    return partial(parse, kinds=kinds)


def _reading(path: Path) -> str:
    """A digest of what the values depend on beside the text: how the file is called, for names beside it, and
    the code, for what it makes of it.
    """
    places = [Path(each.__path__[0]) for each in (common, supervisor.config, tunnels)]
    files = sorted(file for place in places for file in place.rglob("*.py"))
    code = [(str(file), status.st_mtime_ns, status.st_size) for file in files for status in (file.stat(),)]
    return hashlib.sha256(repr((str(path), code)).encode()).hexdigest()


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
    return last is not None and (last.path, last.text) == (str(path.resolve()), readable(path))


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
            values = config_as_plain(config)
            self._file.save(_LastGood(str(self._path.resolve()), text, _reading(self._path), values))
            remember(self._state_dir, text, config)
            self._writable = True
        except OSError as error:
            if self._writable:
                structlog.get_logger().warning(
                    "the configuration is not kept: a crash or a boot would not know it", error=str(error)
                )
            self._writable = False
