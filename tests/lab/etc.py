"""An /etc of its own for a program of the lab, because it needs accounts that the host lacks."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path


def own_etc(directory: Path, accounts: Iterable[str]) -> str:
    """The shell command that gives the calling mount namespace a copy of /etc with these accounts;
    `directory` is where it is made.

    A single file mounted over /etc/passwd would not do: whoever replaces the host's file, as package
    installations do, removes that mount.
    """
    etc = directory / "etc"
    etc.mkdir(exist_ok=True)
    lines = " ".join(shlex.quote(account) for account in accounts)
    return " && ".join(
        (
            f"mount -t tmpfs -o mode=0755 tmpfs {etc}",
            f"{{ cp -a /etc/. {etc} || :; }}",  # a file may vanish meanwhile
            f"printf '%s\\n' {lines} > {etc}/passwd",
            f"mount --move {etc} /etc",
        )
    )
