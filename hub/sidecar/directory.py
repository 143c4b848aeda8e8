"""The sidecar's directory: OpenVPN's management socket, the journal and our control socket are in it.

OpenVPN 2.6 makes its socket writable for everybody and lets one try passwords without end, so the
directory is what protects it: only its owner may enter.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

LOCK = "sidecar.lock"
JOURNAL = "sidecar.journal"
CONTROL = "sidecar.sock"


class DirectoryRefused(Exception):
    """The directory cannot be used; the message says why and what to do."""


class SidecarRuns(Exception):
    """Another sidecar holds the lock."""


def check_directory(directory: Path) -> None:
    """DirectoryRefused: somebody else may enter it, or it belongs to somebody else."""
    try:
        found = directory.lstat()
    except OSError as error:
        raise DirectoryRefused(f"{directory}: {error.strerror}; create it with mode 0700") from None
    if not stat.S_ISDIR(found.st_mode):
        raise DirectoryRefused(f"{directory} is no directory; sidecar.management must lie in one of its own")
    if found.st_mode & 0o077:
        raise DirectoryRefused(
            f"{directory} has mode {found.st_mode & 0o777:04o}; anyone who can enter it controls the VPN server: "
            f"chmod 0700 {directory}"
        )
    if found.st_uid not in (0, os.geteuid()):
        raise DirectoryRefused(f"{directory} belongs to user {found.st_uid}; chown it to the sidecar's user")


def take_lock(directory: Path) -> int:
    """The descriptor that holds the lock, as long as it is open. SidecarRuns, OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(directory / LOCK, flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise SidecarRuns(f"another sidecar runs for {directory}") from None
    return fd
