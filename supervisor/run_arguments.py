"""The command line of `facilitator run`, read without click: the daemon never imports that."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path


def default_config(environ: Mapping[str, str] = os.environ) -> Path:
    """The configuration file where no option names one."""
    return Path(environ.get("FACILITATOR_CONFIG") or "/etc/facilitator/config.yaml")


def daemon_config(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> Path | None:
    """The configuration file of the daemon that is to run; None: click has to read this command line, because
    it is another command, asks for help, or is wrong.
    """
    match arguments:
        case ["run"]:
            return default_config(environ)
        case ["run", "-c" | "--config", path] if path and not path.startswith("-"):
            return Path(path)
        case ["run", option] if option.startswith("--config=") and option != "--config=":
            return Path(option.removeprefix("--config="))
    return None
