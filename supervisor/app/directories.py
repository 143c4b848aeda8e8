"""The daemon's directories, and the lock that prevents a second daemon in the same one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from supervisor import disk
from supervisor.app.stores.changed_sysctls import NAME as CHANGED_SYSCTLS
from supervisor.app.stores.fleet_orders import NAME as FLEET_ORDERS
from supervisor.app.stores.last_configuration import NAME as LAST_CONFIGURATION
from supervisor.app.stores.last_end import NAME as LAST_END
from supervisor.app.stores.second_sessions import NAME as SECOND_SESSIONS
from supervisor.app.stores.silence_file import NAME as SILENCES
from supervisor.app.stores.state_store import NAME as TUNNELS
from supervisor.app.stores.state_store import ORDERS
from supervisor.app.stores.stopped_tunnels import NAME as STOPPED_TUNNELS
from supervisor.clients import output
from supervisor.clients.process_journal import NAME as JOURNAL
from supervisor.control.sockets import share
from supervisor.core.exits import CannotStart, Exit
from supervisor.early_close import NAME as CLOSED
from supervisor.kernel.errors import KernelError, MissingRight, Occupied
from supervisor.reports.history import archive
from supervisor.reports.paging import store, webhook

_CLIENTS = "clients"
_DATABASES = (archive.FILE, store.FILE, webhook.FILE)
_STATE = (
    "codes.json",
    STOPPED_TUNNELS,
    FLEET_ORDERS,
    SECOND_SESSIONS,
    LAST_END,
    LAST_CONFIGURATION,
    CLOSED,
    CHANGED_SYSCTLS,
    SILENCES,
    *(f"{name}{suffix}" for name in _DATABASES for suffix in ("", "-wal", "-shm")),
)


def make_directory(path: Path, setting: str, *, shared: bool = False) -> None:
    """Create a private (0700) directory; `shared` lets the group `facilitator` pass through it.
    CannotStart with a sentence.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            number = errno.EROFS if os.statvfs(path).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(number, os.strerror(number))
        if shared:
            path.chmod(0o710 if share(path) else 0o700)
    except OSError as error:
        raise CannotStart(_code(error), f"cannot write to {path} ({error.strerror}); see {setting}") from None


def lock(runtime_dir: Path, within: float = 0.0) -> int:
    """Take the lock of the runtime directory for as long as the descriptor is open. CannotStart: RUNNING
    when another still holds it after so many seconds.
    """
    path = runtime_dir / disk.LOCK
    try:
        disk.make_way(path)
        fd = disk.opened(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise CannotStart(
            _code(error), f"cannot use {path} ({error.strerror}); see facilitator.runtime_dir"
        ) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not _released(fd, within):
            os.close(fd)
            raise CannotStart(Exit.RUNNING, f"another facilitator runs with {runtime_dir}") from None
    return fd


def _released(fd: int, within: float) -> bool:
    """Wait for a lock that another process holds; True: it is ours now. flock(2) has no timeout, so another
    thread waits; it ends with this process.
    """
    waiting = threading.Thread(target=fcntl.flock, args=(fd, fcntl.LOCK_EX), daemon=True)
    if within > 0.0:
        waiting.start()
        waiting.join(within)
    return within > 0.0 and not waiting.is_alive()


def tidy(runtime_dir: Path, state_dir: Path | None = None) -> Iterator[str]:
    """Remove what has the name of a file of ours and is none (`supervisor.disk`): a sentence for each. Only
    for the holder of the lock.
    """
    for name in (JOURNAL, TUNNELS, ORDERS):
        yield from disk.tidy(runtime_dir / name, largest=disk.MAX_RECORD_BYTES)
    yield from disk.tidy(runtime_dir, names=(_CLIENTS,), directories=True)
    for directory in (runtime_dir / _CLIENTS).glob("*"):
        yield from disk.tidy(directory, names=(output.NAME, output.PREVIOUS, output.READ))
    if state_dir is not None:
        yield from disk.tidy(state_dir, names=_STATE)


def refused(error: KernelError) -> CannotStart:
    """A refusal by the kernel as the end of a command."""
    codes = {Occupied: Exit.RUNNING, MissingRight: Exit.NO_RIGHT}
    code = next((code for kind, code in codes.items() if isinstance(error, kind)), Exit.FAILED)
    return CannotStart(code, str(error))


def _code(error: OSError) -> Exit:
    return Exit.NO_RIGHT if isinstance(error, PermissionError) else Exit.FAILED


def remove_socket(runtime_dir: Path) -> None:
    """The control socket, at the end of the daemon."""
    with contextlib.suppress(OSError):
        disk.make_way(runtime_dir / disk.CONTROL_SOCKET)
