"""Facts about programs and Python packages."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, requires, version

from supervisor.app.preflight.host import ANSWER_TIMEOUT_SECONDS
from supervisor.clients.launch import PATH, SpawnError, require
from supervisor.config.model import Config
from supervisor.core.preflight.facts import PackageFacts, ProgramFacts
from tunnels.base import AnyKind

_ASK: Mapping[str, str] = {"ssh": "-V"}  # everybody else understands --version
_MUTE = frozenset({"charon-systemd"})  # takes no options: asked anything, it would begin to serve
_VERSION = re.compile(r"\d{1,9}\.\d{1,9}(?:\.\d{1,9})*(?:p\d{1,9})?")
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*([^;]*)")


def installed(config: Config, kinds: Mapping[str, AnyKind]) -> tuple[ProgramFacts, ...]:
    """The client programs of all configured kinds. Their versions are queried concurrently."""
    wanted: dict[str, list[str]] = {}
    for name, tunnel in config.tunnels.items():
        for program in kinds[tunnel.kind].binaries:
            wanted.setdefault(program, []).append(name)
    if not wanted:
        return ()
    with ThreadPoolExecutor(len(wanted)) as pool:
        return tuple(pool.map(_program, wanted, map(tuple, wanted.values())))


def _program(name: str, tunnels: tuple[str, ...]) -> ProgramFacts:
    try:
        require((name,))
    except SpawnError as error:
        return ProgramFacts(name, tunnels, missing=error.text)
    if os.path.basename(name) in _MUTE:
        return ProgramFacts(name, tunnels)
    command = (shutil.which(name, path=PATH) or name, _ASK.get(name, "--version"))
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=ANSWER_TIMEOUT_SECONDS,
            check=False,
            env={"PATH": PATH, "LANG": "C.UTF-8"},
        )
    except subprocess.TimeoutExpired:
        return ProgramFacts(name, tunnels, error=f"no answer within {ANSWER_TIMEOUT_SECONDS} s")
    except OSError as error:
        return ProgramFacts(name, tunnels, error=error.strerror)
    text = done.stdout.decode(errors="replace")
    found = _VERSION.search(text)
    if found is None and done.returncode in (126, 127):
        return ProgramFacts(
            name,
            tunnels,
            error=text.strip().splitlines()[0] if text.strip() else f"exit code {done.returncode}",
        )
    return ProgramFacts(name, tunnels, version=found[0] if found else None)


def packages() -> tuple[PackageFacts, ...]:
    """The required Python packages and their installed versions; empty in a source tree."""
    try:
        lines = requires("vpn-facilitator") or []
    except PackageNotFoundError:
        return ()
    needed = (match for line in lines if "extra ==" not in line and (match := _REQUIREMENT.match(line)))
    return tuple(PackageFacts(match[1], match[2].strip(), _version(match[1])) for match in needed)


def supervisord() -> bool:
    """Is PyPI's supervisor (supervisord) installed in this environment?"""
    return _version("supervisor") is not None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def unusable_program(path: str) -> str | None:
    """Why an unprivileged user cannot run the program at this path; None: it can, or that cannot be seen."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return f"{path} does not exist on this host"
    except OSError:
        return None
    if not stat.S_ISREG(mode):
        return f"{path} is not a program"
    if not mode & stat.S_IXOTH:
        return (
            f"{path} is not executable for everybody, and hooks run as an unprivileged user: chmod 755 {path}"
        )
    return None
