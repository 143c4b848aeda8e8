"""What the kernel says about processes, and the few process-wide settings that supervision needs.

Every descendant of a client inherits a tag in its environment, so what a crashed daemon left behind can be
told from everything else on the host. A pid is trusted only together with a pidfd, a start time, or the fact
that it is an unreaped child of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import resource
import signal
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TAG = "FACILITATOR_CLIENT"
HIDDEN_SECONDS = 0.5  # at most, for which /proc may hide a new child
_PR_SET_CHILD_SUBREAPER = 36
_PIDFD_SIGNAL_PROCESS_GROUP = 4
_PIDFD_INFO = struct.Struct("2Q11Ii")  # mask, cgroup, pids, users and groups, exit code
_PIDFD_GET_INFO = 0xC000_FF0B | _PIDFD_INFO.size << 16
_PIDFD_INFO_EXIT = 8
_LAST_STREAM = 2
_CHUNK = 1 << 13


@dataclass(frozen=True, slots=True)
class Stat:
    """The part of /proc/PID/stat that identifies a process."""

    state: str  # one letter; Z: dead and not reaped
    parent: int  # pid
    session: int  # process session, setsid(2)
    start: int  # clock ticks since boot: tells a process from a later one with the same pid


def stat(pid: int) -> Stat | None:
    """The identity of the process; None: there is no such process."""
    fields = stat_fields(pid)
    return (
        None if fields is None else Stat(fields[0].decode(), int(fields[1]), int(fields[3]), int(fields[19]))
    )


def stat_of_new(pid: int) -> Stat | None:
    """The identity of a child that was started just now and is not reaped.

    Where /proc shows only processes that one may trace (hidepid in proc(5), systemd's ProtectProc), it hides
    a child for an instant within its exec: it shares our being not dumpable until the kernel has decided
    about the new program.
    """
    deadline = time.monotonic() + HIDDEN_SECONDS
    while (known := stat(pid)) is None and time.monotonic() < deadline:
        os.sched_yield()
    return known


def stat_fields(pid: int) -> list[bytes] | None:
    """The fields of /proc/PID/stat from the third (the state) on; None: there is no such process."""
    try:
        raw = _read(f"/proc/{pid}/stat")
    except OSError:
        return None
    return raw[raw.rindex(b")") + 2 :].split()  # the command before it may hold blanks and brackets


def tag_of(pid: int) -> str | None:
    """The tag that the process inherited; None: it has none, is dead, or may not be inspected."""
    try:
        environment = _read(f"/proc/{pid}/environ")
    except OSError:
        return None
    prefix = f"{TAG}=".encode()
    return next(
        (os.fsdecode(field[len(prefix) :]) for field in environment.split(b"\0") if field.startswith(prefix)),
        None,
    )


def user_of(pid: int) -> int | None:
    """The effective uid of the process; None: there is no such process."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def children(pid: int, threads: int | None = None) -> set[int]:
    """The direct children, including zombies. Takes microseconds, because /proc is not scanned. `threads`:
    the number of threads of the process, if known.
    """
    if not _kernel_lists_children():
        import psutil  # slow to import, and hardly ever needed

        with contextlib.suppress(psutil.Error):
            return {child.pid for child in psutil.Process(pid).children()}
        return set()
    if threads == 1:  # nearly all of them, at each scrape
        return _children(pid, pid)
    try:
        return set().union(*(_children(pid, int(thread)) for thread in os.listdir(f"/proc/{pid}/task")))
    except OSError:
        return set()


def _children(pid: int, thread: int) -> set[int]:
    try:
        return set(map(int, _read(f"/proc/{pid}/task/{thread}/children").split()))
    except OSError:
        return set()


def descendants(pid: int) -> set[int]:
    """Children, their children, and so on; not the process itself."""
    found: set[int] = set()
    new = children(pid)
    while new:
        found |= new
        new = set().union(*map(children, new)) - found
    return found


@dataclass(frozen=True, slots=True)
class Traces:
    """What shows to which client a process belongs."""

    pid: int
    stat: Stat
    tag: str | None
    lineage: frozenset[int]  # the process, its parent, and so on


def traces(pid: int) -> Traces | None:
    """The traces of a process that is not reaped; None: there is none."""
    known = stat(pid)
    return None if known is None else Traces(pid, known, tag_of(pid), frozenset(_lineage(pid)))


def _lineage(pid: int) -> Iterator[int]:
    """As far as visible: a parent that ends meanwhile cuts it short."""
    while pid > 0 and (known := stat(pid)) is not None:
        yield pid
        pid = known.parent


def all_pids() -> Iterator[int]:
    """Every visible process."""
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())


def boot_id() -> str:
    """A value that changes with each boot of the host: start times of different boots cannot be compared."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def in_this_boot(moment: float) -> bool:
    """Whether a moment (Unix time) lies after the start of PID 1: after the boot of the host, or of the
    container. False where PID 1 cannot be seen.
    """
    first = stat(1)
    if first is None:
        return False
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - first.start / os.sysconf("SC_CLK_TCK")
    return moment >= time.time() - age


def open_standard_streams() -> None:
    """Open /dev/null for closed standard streams, before other files get their descriptor numbers."""
    fd = os.open(os.devnull, os.O_RDWR)
    while fd <= _LAST_STREAM:
        os.set_inheritable(fd, True)
        fd = os.dup(fd)
    os.close(fd)


def become_subreaper() -> None:
    """Become the parent of descendants whose parent ends, however often they forked (PR_SET_CHILD_SUBREAPER).
    OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def reset_sigchld() -> None:
    """Undo an inherited SIG_IGN, with which the kernel would drop exit statuses."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one, which is returned: each client needs a handful of
    descriptors.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def forbid_core_dumps() -> None:
    """Forbid core dumps, because memory holds secrets. A limit of 1 byte refuses dumps to files and to
    programs alike (core(5)).
    """
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))


@functools.cache
def _kernel_lists_children() -> bool:
    return os.path.exists("/proc/thread-self/children")


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # not open(): this is done for every client at each scrape
    try:
        data = os.read(fd, _CHUNK)
        while (
            data and len(data) % _CHUNK == 0 and (more := os.read(fd, _CHUNK))
        ):  # files of /proc are short: what fits comes at once
            data += more
        return data
    finally:
        os.close(fd)


def signal_group(pidfd: int, pid: int, number: signal.Signals) -> None:
    """Signal the process group that this process leads, dead or alive. ProcessLookupError: there is none;
    PermissionError.
    """
    try:
        signal.pidfd_send_signal(pidfd, number, None, _PIDFD_SIGNAL_PROCESS_GROUP)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Linux before 6.9. While the leader is not reaped, no other group can have its number.
        signal.pidfd_send_signal(pidfd, 0)
        os.killpg(pid, number)


def exit_status(pidfd: int) -> int | None:
    """The exit status of a process that is not our child, as in wait(2); None: it is not reaped yet, or the
    kernel is older than 6.15.
    """
    info = bytearray(struct.pack("Q", _PIDFD_INFO_EXIT).ljust(_PIDFD_INFO.size, b"\0"))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
    except OSError:
        return None
    mask, *_, status = _PIDFD_INFO.unpack(info)
    return status if mask & _PIDFD_INFO_EXIT else None


async def ended(pidfd: int) -> None:
    """Wait until the process is dead. It need not be our child."""
    loop = asyncio.get_running_loop()
    dead = asyncio.Event()
    loop.add_reader(pidfd, dead.set)
    try:
        await dead.wait()
    finally:
        loop.remove_reader(pidfd)
