"""`facilitator close`, and the first act of `facilitator run`: closes the kernel for every destination before
anything else runs.

Which destinations a good configuration has stands in `state_dir` (`remember`), beside the digest of its text:
while the file is the same, nothing has to be parsed, and nothing heavy to be imported. A file that changed is
parsed; for one that cannot be used, the last one that was in force counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor import disk
from supervisor.core.exits import CannotStart, Exit
from supervisor.included import with_included
from supervisor.kernel.closing import ClosingResult, close
from supervisor.kernel.closing import closed_since as kernel_closed_since
from supervisor.kernel.errors import KernelError, MissingRight
from tunnels.networks import IPNetwork

if TYPE_CHECKING:
    from supervisor.config.model import Config

NAME = "closed.json"  # in state_dir
DEFAULT_STATE_DIR = Path("/var/lib/facilitator")
_FORMAT = 1
_STATE_DIR = re.compile(r"(?:^|[{,])\s*state_dir:\s*[\"']?([^\"'\s#{}\[\],]+)", re.M)
_SHOWN = 5  # networks in a sentence


@dataclass(frozen=True, slots=True)
class Remembered:
    """What was last in force."""

    digest: str  # of the configuration's text
    networks: tuple[IPNetwork, ...]


@dataclass(frozen=True, slots=True)
class CloseReport:
    """What to say, and the exit code."""

    code: Exit
    text: str
    problems: tuple[str, ...] = ()  # why the file is not what is in force


def parsed_here(text: str, name: str) -> Config:
    """In this process. ConfigErrors."""
    from supervisor.lean_imports import replace_plugin_search

    replace_plugin_search()
    from supervisor.config.parse import parse
    from tunnels.registry import KINDS

    return parse(text, name, KINDS)


def run(
    path: Path, state_dir: Path = DEFAULT_STATE_DIR, parse: Callable[[str, str], Config] = parsed_here
) -> CloseReport:
    """Close the kernel for the destinations of this configuration, or of the last one in force; `state_dir`:
    where that stands if the file does not say; `parse`: the configuration in a text and its name.
    """
    text, problem = _all_text(path)
    known = _newest(state_dirs(text, state_dir))
    if problem is None and known is not None and known.digest == _digest(text):
        return _closed(known.networks, f"of {path}")
    problems, networks = _parsed(path, text, parse) if problem is None else ((problem,), None)
    if networks is not None:
        return _closed(networks, f"of {path}")
    if known is not None:
        return _closed(known.networks, "that were last in force", problems)
    sentence = "nothing is closed: this host has never seen a good configuration"
    return CloseReport(Exit.CONFIG, sentence, problems)


def remember(state_dir: Path, text: str, config: Config) -> None:
    """This text is in force: a boot without it, or without its secrets, closes the same. OSError."""
    networks = sorted(map(str, destinations(config)))
    content = json.dumps({"format": _FORMAT, "digest": _digest(text), "destinations": networks}).encode()
    path = state_dir / NAME
    if _content(path) != content:
        disk.replace(path, content, sync=True)


def forget(state_dir: Path) -> None:
    """Nothing is in force any more: a boot closes what the configuration names, and nothing without one.
    OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        (state_dir / NAME).unlink()


def destinations(config: Config) -> set[IPNetwork]:
    """All of them, as staff address them."""
    return {each.staff_side for tunnel in config.tunnels.values() for each in tunnel.destinations}


def state_dirs(text: str, default: Path = DEFAULT_STATE_DIR) -> list[Path]:
    """Where the state may lie: what the text of a configuration says, as far as it can be read without
    parsing it, and the default.
    """
    return [*map(Path, _STATE_DIR.findall(text)), default]


def _all_text(path: Path) -> tuple[str, str | None]:
    """The text with that of the included files, and why one of them cannot be read."""
    problems: list[str] = []

    def read(file: Path) -> str:
        text, problem = _text(file)
        problems.extend(() if problem is None else (problem,))
        return text

    return with_included(read(path), path, read), next(iter(problems), None)


def _text(path: Path) -> tuple[str, str | None]:
    """The text of the file, and why it cannot be read. Of a pipe nothing is taken, because the start reads
    it; and a boot does not wait for one.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), encoding="utf-8") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return "", f"{path} is not a regular file"
            return file.read(), None
    except UnicodeDecodeError:
        return "", f"{path} is not text in UTF-8"
    except OSError as error:
        return "", f"cannot read the configuration {path}: {error.strerror}"


def _parsed(
    path: Path, text: str, parse: Callable[[str, str], Config]
) -> tuple[tuple[str, ...], Collection[IPNetwork] | None]:
    """The file's destinations, or why there are none."""
    from common.configuration.problems import ConfigErrors

    try:
        return (), destinations(parse(text, str(path)))
    except ConfigErrors as errors:
        return tuple(map(str, errors)), None
    except CannotStart as problem:
        return (str(problem),), None


def _newest(directories: Iterable[Path]) -> Remembered | None:
    """The first that there is."""
    return next((found for each in directories if (found := _recalled(each / NAME)) is not None), None)


def _recalled(path: Path) -> Remembered | None:
    try:
        raw = json.loads(_content(path))
        if raw["format"] != _FORMAT:
            return None
        return Remembered(str(raw["digest"]), tuple(map(ip_network, raw["destinations"])))
    except (ValueError, LookupError, TypeError):
        return None


def _content(path: Path) -> bytes:
    try:
        return disk.read(path)
    except OSError:
        return b""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _closed(networks: Collection[IPNetwork], whose: str, problems: tuple[str, ...] = ()) -> CloseReport:
    if not networks:
        return CloseReport(Exit.OK, f"nothing is to be closed: no destinations {whose}", problems)
    try:
        return _report(asyncio.run(close(networks)), f"the {len(networks)} destinations {whose}", problems)
    except MissingRight as error:
        return CloseReport(Exit.NO_RIGHT, str(error), problems)
    except KernelError as error:
        return CloseReport(Exit.FAILED, str(error), problems)


def _report(closing: ClosingResult, what: str, problems: tuple[str, ...]) -> CloseReport:
    if closing.open:
        names = ", ".join(map(str, closing.open[:_SHOWN])) + (", ..." if len(closing.open) > _SHOWN else "")
        sentence = f"a facilitator runs, and does not close all of {what}: {names}; facilitator reload"
        return CloseReport(Exit.RUNNING, sentence, problems)
    if closing.running:
        return CloseReport(Exit.OK, f"a facilitator runs and closes {what}; nothing was changed", problems)
    done = "closed" if closing.changed else "closed already, nothing was changed"
    return CloseReport(Exit.OK, f"{done}: {what}", problems)


def closed_since() -> float | None:
    """Seconds since the epoch, as the kernel holds it; None: the host is not closed, or it cannot be seen."""
    with contextlib.suppress(KernelError):
        return asyncio.run(kernel_closed_since())
    return None


def command(path: Path) -> int:
    """`facilitator close`: say what was done; the exit code."""
    report = run(path)
    for problem in report.problems:
        print(problem, file=sys.stderr)
    failed = report.code is not Exit.OK
    print(f"facilitator: {report.text}" if failed else report.text, file=sys.stderr if failed else sys.stdout)
    return report.code
