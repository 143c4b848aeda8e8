"""Validates configurations in a process of their own, which then ends: pydantic, YAML and the rules would
stay in the daemon's memory, and while they work the daemon can import its other parts.

    text (memfd) -> python -I -c ... NAME -> main -> JSON (memfd) -> Config or ConfigErrors
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supervisor.core.exits import CannotStart, Exit

if TYPE_CHECKING:
    from supervisor.config import Config
    from tunnels.base import AnyKind

    Kinds = Mapping[str, AnyKind]

# The code that this process runs, wherever it lies; nothing from the working directory or the environment.
_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from supervisor.validation import main; main()"
PROGRAM = (sys.executable, "-I", "-c", _START, str(Path(__file__).parents[1]))
TIMEOUT_SECONDS = 120.0  # a configuration of thousands of tunnels on a busy host takes tens of seconds
_FAULT = "the configuration could not be validated"


def registry() -> Kinds:
    """The kinds that this program knows."""
    from tunnels.registry import KINDS

    return KINDS


class Validator:
    """Validates with a program. It remembers the last result, because the first act of a start
    (`supervisor.early_close`) and the start itself ask for the same. Any thread, but one at a time.
    """

    def __init__(
        self,
        kinds: Callable[[], Kinds] = registry,
        program: Sequence[str] = PROGRAM,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        """`program` calls `answer` with the same kinds; the name is added to its arguments."""
        self._kinds, self._program, self._timeout = kinds, program, timeout
        self._asked = ("", "")
        self._process: _Process | None = None  # has not been waited for
        self._result: Config | Exception | None = None

    def begin(self, text: str, name: str) -> None:
        """Let the program work already. OSError."""
        if self._asked != (text, name):
            self._process, self._result = _Process([*self._program, name], text), None
            self._asked = (text, name)

    def __call__(self, text: str, name: str) -> Config:
        """The configuration in the text. ConfigErrors; CannotStart: the program fails."""
        if self._asked != (text, name) or self._result is None:
            self._result = self._validated(text, name)
        if isinstance(self._result, Exception):
            raise self._result
        return self._result

    def _validated(self, text: str, name: str) -> Config | Exception:
        try:
            self.begin(text, name)
            assert self._process is not None
            raw = json.loads(self._process.output(self._timeout))
        except (OSError, subprocess.TimeoutExpired, ValueError) as error:
            self._asked = ("", "")
            return CannotStart(Exit.FAILED, f"{_FAULT}: {error}")
        finally:
            self._process = None
        return _understood(raw, self._kinds())


class _Process:
    """One run of the program."""

    def __init__(self, argv: Sequence[str], text: str) -> None:
        """OSError: it cannot be started."""
        self._output = io.FileIO(os.memfd_create("validated", os.MFD_CLOEXEC), "r+")
        try:
            with open(os.memfd_create("configuration", os.MFD_CLOEXEC), "w+b", buffering=0) as source:
                source.write(text.encode())
                source.seek(0)
                self._running = subprocess.Popen(argv, stdin=source, stdout=self._output)
        except OSError:
            self._output.close()
            raise

    def output(self, timeout: float) -> bytes:
        """What it has written, once it has ended. Once only. TimeoutExpired: it was killed."""
        with self._output as file:
            try:
                code = self._running.wait(timeout)
            except subprocess.TimeoutExpired:
                self._running.kill()
                self._running.wait()
                raise
            if code != 0:
                raise OSError(f"the process that does it ended with code {code}")
            file.seek(0)
            return file.readall()


def _understood(raw: Any, kinds: Kinds) -> Config | Exception:
    from common.configuration.problems import ConfigErrors, Problem
    from common.plain import from_plain
    from supervisor.config.stored import config_from_plain

    if "config" in raw:
        return config_from_plain(raw["config"], kinds)
    errors, warnings = (
        tuple(from_plain(Problem, each) for each in raw[which]) for which in ("errors", "warnings")
    )
    return ConfigErrors(errors, warnings)


def answer(kinds: Kinds) -> None:
    """What the program does: the text is on standard input, its name the last argument, the result goes to
    standard output.
    """
    from common.configuration.problems import ConfigErrors
    from common.plain import plain
    from supervisor.config.parse import parse
    from supervisor.config.stored import config_as_plain

    try:
        config = parse(sys.stdin.buffer.read().decode(), sys.argv[-1], kinds)
        result: dict[str, Any] = {"config": config_as_plain(config)}
    except ConfigErrors as problem:
        result = {"errors": [*map(plain, problem.problems)], "warnings": [*map(plain, problem.warnings)]}
    json.dump(result, sys.stdout)


def main() -> None:
    """The program, for the kinds that are built in."""
    from supervisor.lean_imports import replace_plugin_search

    replace_plugin_search()
    answer(registry())
