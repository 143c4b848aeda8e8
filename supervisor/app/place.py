"""Where the daemon lives on the host: its directories, and the lock that keeps a second one out."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from supervisor.control.servers import share
from supervisor.core.exits import CannotStart, Exit
from supervisor.kernel.errors import KernelError, MissingRight, Occupied

_LOCK = "lock"


def make_directory(path: Path, setting: str, *, shared: bool = False) -> None:
    """Create a private (0700) directory; `shared` lets the group `facilitator` pass through it. CannotStart with a sentence."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            number = errno.EROFS if os.statvfs(path).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(number, os.strerror(number))
        if shared:
            path.chmod(0o710 if share(path) else 0o700)
    except OSError as error:
        raise CannotStart(_code(error), f"cannot write to {path} ({error.strerror}); see {setting}") from None


def lock(runtime_dir: Path) -> int:
    """Take the lock of the runtime directory for as long as the descriptor is open. CannotStart: RUNNING when another holds it."""
    path = runtime_dir / _LOCK
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise CannotStart(_code(error), f"cannot use {path} ({error.strerror}); see facilitator.runtime_dir") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise CannotStart(Exit.RUNNING, f"another facilitator runs with {runtime_dir}") from None
    return fd


def refused(error: KernelError) -> CannotStart:
    """The kernel's no as the end of a command."""
    code = Exit.RUNNING if isinstance(error, Occupied) else Exit.NO_RIGHT if isinstance(error, MissingRight) else Exit.FAILED
    return CannotStart(code, str(error))


def _code(error: OSError) -> Exit:
    return Exit.NO_RIGHT if isinstance(error, PermissionError) else Exit.FAILED
