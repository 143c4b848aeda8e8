"""A throw-away git repository with the files of this checkout, those included that are not committed yet."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.packaging.installation import REPOSITORY

PERSON = {f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


@dataclass(frozen=True)
class Checkout:
    """A git repository in a directory."""

    path: Path

    def git(self, *arguments: str) -> str:
        """What git answers there; the configuration of this host and user is not read."""
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            **PERSON,
        }
        done = subprocess.run(
            ("git", "-C", self.path, *arguments), env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    def commit(self, message: str = "More") -> str:
        """Commit all that is there; the first seven digits of the commit."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", f"--message={message}")
        return self.git("rev-parse", "--short=7", "HEAD").strip()

    def run(self, *command: str | Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
        """A command in this directory, with the Python of the tests."""
        environment = {
            "PATH": path or os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            "BIN": str(Path(sys.executable).parent),
            "HOME": str(self.path.parent),
            **PERSON,
        }
        return subprocess.run(command, cwd=self.path, env=environment, capture_output=True, text=True)


def repository(path: Path) -> Checkout:
    """An empty repository."""
    path.mkdir(parents=True, exist_ok=True)
    made = Checkout(path)
    made.git("init", "--quiet", "--initial-branch=main")
    return made


def copy(path: Path) -> Checkout:
    """A repository with one commit: the files of this checkout as they are now."""
    made = repository(path)
    for name in files():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, path / name)
    made.commit("All")
    return made


def files() -> Iterator[str]:
    """The files that git tracks or would add."""
    listed = ("git", "-C", REPOSITORY, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (REPOSITORY / name).exists():
            yield name
