"""Where the daemon lives on the host: its directories, and the lock that keeps a second one out."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from supervisor.control.api import share
from supervisor.core.exits import CannotStart, Exit

_LOCK = "lock"


def make_directory(path: Path, setting: str, *, shared: bool = False) -> None:
    """Create a private (0700) directory; `shared` lets the group `facilitator` pass through it. CannotStart with a sentence."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
        if shared:
            path.chmod(0o710 if share(path) else 0o700)
    except OSError as error:
        code = Exit.NO_RIGHT if isinstance(error, PermissionError) else Exit.FAILED
        raise CannotStart(code, f"cannot write to {path} ({error.strerror}); see {setting}") from None


def lock(runtime_dir: Path) -> int:
    """Take the lock of the runtime directory for as long as the descriptor is open. CannotStart(RUNNING) when another holds it."""
    fd = os.open(runtime_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise CannotStart(Exit.RUNNING, f"another facilitator runs with {runtime_dir}") from None
    return fd
