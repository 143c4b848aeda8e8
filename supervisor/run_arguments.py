"""The command lines of `facilitator run` and `facilitator close`, read without click: a daemon never imports
that, and `close` has no time for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


def default_config(environ: Mapping[str, str] = os.environ) -> Path:
    """The configuration file where no option names one."""
    return Path(environ.get("FACILITATOR_CONFIG") or "/etc/facilitator/config.yaml")


@dataclass(frozen=True, slots=True)
class RunArguments:
    """What `facilitator run` is told."""

    config: Path
    watch: bool = False  # reload whenever the file changes


def run_arguments(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> RunArguments | None:
    """How the daemon is to run; None: click has to read this command line, because it is another command,
    asks for help, or is wrong.
    """
    watch = list(arguments[1:2]) == ["--watch"]
    match [*arguments[:1], *arguments[1 + watch :]]:
        case ["run"]:
            return RunArguments(default_config(environ), watch)
        case ["run", "-c" | "--config", path] if path and not path.startswith("-"):
            return RunArguments(Path(path), watch)
        case ["run", option] if option.startswith("--config=") and option != "--config=":
            return RunArguments(Path(option.removeprefix("--config=")), watch)
    return None


def close_argument(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> Path | None:
    """The configuration of `facilitator close`; None: click has to read this command line."""
    if list(arguments[:1]) != ["close"]:
        return None
    as_run = run_arguments(["run", *arguments[1:]], environ)
    return None if as_run is None or as_run.watch else as_run.config
