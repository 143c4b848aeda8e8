"""The version that this code reports: in a git checkout it is read from `git describe`, elsewhere from
`supervisor.__version__`.
"""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path

from supervisor import __version__

CHECKOUT = Path(__file__).parents[1]
GIT_SECONDS = 5.0  # after that git counts as unusable
_DESCRIBED = re.compile(r"(?:v(?P<tag>[0-9][0-9.]*)-(?P<commits>[0-9]+)-g)?(?P<commit>[0-9a-f]+)")


@functools.cache
def version() -> str:
    """Version of the running code, in the form of PEP 440.

    "1.2.0" for an installed release or the tagged commit itself, "1.2.0+5.g1a2b3c4" five commits after
    the tag. Without a usable git it is the version that the build, or the last release, has written down.
    """
    return described(CHECKOUT, __version__)


def described(checkout: Path, otherwise: str) -> str:
    """Version of the git checkout in this directory; `otherwise` where it is none, or git does not answer.

    Only a repository whose top is this very directory counts: an unpacked sdist may lie in another one.
    """
    if not (checkout / ".git").exists():
        return otherwise
    command = (
        "git",
        f"--git-dir={checkout / '.git'}",
        "describe",
        "--tags",
        "--long",
        "--always",
        "--abbrev=7",
    )
    try:
        done = subprocess.run(
            (*command, "--match=v[0-9]*"), capture_output=True, text=True, timeout=GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return otherwise
    found = _DESCRIBED.fullmatch(done.stdout.strip())
    if found is None:
        return otherwise
    if found["tag"] is None:  # no release yet
        return f"{otherwise}+g{found['commit']}"
    return (
        found["tag"] if found["commits"] == "0" else f"{found['tag']}+{found['commits']}.g{found['commit']}"
    )
