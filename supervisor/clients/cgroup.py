"""A control group for the clients, so that they outlive the group of whoever started the daemon.

A scheduler kills a task by its control group (cgroup.kill, cgroups(7)). Clients that live in the task's
group would end with every restart of the task. Here they move to `facilitator.slice/NAME` directly below the
root of each hierarchy:

    cgroup v2            /sys/fs/cgroup/facilitator.slice/NAME (on hybrid hosts below /sys/fs/cgroup/unified)
    each v1 hierarchy    in which the daemon itself is not in the root group: memory, pids, freezer, name=...

systemd is not one of these schedulers: its unit is ours, limits daemon and clients together, and ends the
daemon alone (KillMode=process). There nothing is moved.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import select
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SLICE = "facilitator.slice"
MEMORY_HIGH_SHARE, MEMORY_MAX_SHARE = (
    0.65,
    0.75,
)  # of the host's memory, as MemoryHigh= and MemoryMax= of the unit
EMPTY_SECONDS = 2.0  # for the last processes of the group to be gone
MAX_PIDS = 8192  # threads count, too
_MOUNTS = Path("/proc/self/mountinfo")
_SELF = Path("/proc/self/cgroup")
_CONTROLLERS = ("memory", "pids")
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A mounted cgroup hierarchy, and the group of this process in it."""

    mount: Path
    controllers: frozenset[str]  # of v1, also name=NAME; of v2: empty
    own: str  # path below the root, `/` for the root itself

    @property
    def unified(self) -> bool:
        """It is cgroup v2."""
        return not self.controllers


def hierarchies(mounts: Iterable[str], groups: Iterable[str]) -> Iterator[Hierarchy]:
    """From the lines of /proc/PID/mountinfo and /proc/PID/cgroup (proc(5), cgroups(7)); v2 first.

    A hierarchy that is mounted several times counts once. A bind mount of one group of it does not count.
    """
    own = {frozenset(filter(None, names.split(","))): path for _, names, path in _groups(groups)}
    seen: set[frozenset[str]] = set()
    found = []
    for root, mount, kind, options in _mounts(mounts):
        controllers = (
            frozenset() if kind == "cgroup2" else next((key for key in own if key and key <= options), None)
        )
        if root == "/" and controllers is not None and controllers in own and controllers not in seen:
            seen.add(controllers)
            found.append(Hierarchy(Path(mount), controllers, own[controllers]))
    return iter(sorted(found, key=lambda each: (not each.unified, each.mount)))


def _groups(lines: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    for line in lines:
        number, _, rest = line.rstrip("\n").partition(":")
        names, colon, path = rest.partition(":")
        if colon:
            yield number, names, path


def _mounts(lines: Iterable[str]) -> Iterator[tuple[str, str, str, frozenset[str]]]:
    for line in lines:
        before, dash, after = line.partition(" - ")
        fields, about = before.split(), after.split()
        if dash and len(fields) > 4 and len(about) > 2 and about[0] in ("cgroup", "cgroup2"):
            yield fields[3], _unescaped(fields[4]), about[0], frozenset(about[2].split(","))


def _unescaped(path: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), path)


class ClientGroup:
    """The clients' group of the facilitator of this name. It is made when the first client moves.

    `unavailable` is a sentence where clients stay in the group of the daemon, else None.
    """

    def __init__(self, name: str, found: Iterable[Hierarchy] | None = None) -> None:
        self._name = group_name(name)
        every = list(of_this_host() if found is None else found)
        self._hierarchies = [each for each in every if each.unified or each.own != "/"]
        self._made = False
        self.unavailable = None if self._hierarchies else "no cgroup hierarchy is mounted"

    @property
    def paths(self) -> list[Path]:
        """Where it is, or will be."""
        return [each.mount / SLICE / self._name for each in self._hierarchies]

    def make(self) -> bool:
        """Make it, with its limits. True: clients can move there; else `unavailable` says why not."""
        if not self._made and self.unavailable is None:
            try:
                for each in self._hierarchies:
                    _make(each, each.mount / SLICE / self._name)
                self._made = True
            except OSError as error:
                self.unavailable = f"{error.filename}: {error.strerror}"
        return self._made

    def add(self, pid: int) -> bool:
        """Move a process; what it starts from now on is there, too. False: it stays where it is."""
        if not self.make():
            return False
        try:
            for path in self.paths:
                _write(path / "cgroup.procs", str(pid))
        except ProcessLookupError:
            return False
        except OSError as error:
            if error.errno != errno.ESRCH:
                self.unavailable = f"{error.filename}: {error.strerror}"
            return False
        return True

    def members(self) -> frozenset[int]:
        """Pids of the processes in it."""
        return frozenset(pid for path in self.paths for pid in _pids(path))

    async def close(self) -> None:
        """Wait a moment for the last processes in it to be gone, and remove it."""
        if self._made:
            await asyncio.to_thread(self._emptied)
            self.remove()

    def _emptied(self) -> None:
        """The kernel tells when a group of v2 becomes empty: an event of its cgroup.events (cgroups(7))."""
        deadline = time.monotonic() + EMPTY_SECONDS
        for each in self._hierarchies:
            path = each.mount / SLICE / self._name / "cgroup.events"
            with contextlib.suppress(OSError), open(path) as events:
                poll = select.poll()
                poll.register(events, select.POLLPRI)
                while "populated 1" in events.read() and time.monotonic() < deadline:
                    poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
                    events.seek(0)

    def remove(self) -> None:
        """Remove it, if nothing is left in it, and the slice, if no other facilitator has one there."""
        for path in self.paths:
            for each in (path, path.parent):
                with contextlib.suppress(OSError):  # EBUSY, ENOTEMPTY: somebody lives there
                    each.rmdir()
        self._made = False


def group_name(name: str) -> str:
    """The facilitator's name as the name of a directory: letters, digits, `-`, `_` and single dots."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:64] or "facilitator"


def of_this_host() -> Iterator[Hierarchy]:
    """The hierarchies that are mounted here; none where that cannot be read."""
    try:
        return hierarchies(_MOUNTS.read_text().splitlines(), _SELF.read_text().splitlines())
    except OSError:
        return iter(())


def _make(hierarchy: Hierarchy, path: Path) -> None:
    if hierarchy.unified:
        for parent in (hierarchy.mount, hierarchy.mount / SLICE):
            parent.mkdir(exist_ok=True)
            for controller in _CONTROLLERS:
                _write_if_possible(parent / "cgroup.subtree_control", f"+{controller}")
    path.mkdir(parents=True, exist_ok=True)
    high, most = (int(_memory_bytes() * share) for share in (MEMORY_HIGH_SHARE, MEMORY_MAX_SHARE))
    limits = (
        {"memory.high": high, "memory.max": most, "pids.max": MAX_PIDS}
        if hierarchy.unified
        else {"memory.limit_in_bytes": most, "pids.max": MAX_PIDS}
    )
    for file, limit in limits.items():
        _write_if_possible(path / file, str(limit))


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _write_if_possible(path: Path, text: str) -> None:
    """A controller that this host lacks has no such file; one that belongs to another refuses."""
    with contextlib.suppress(OSError):
        _write(path, text)


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(fd)


def _pids(path: Path) -> Iterator[int]:
    with contextlib.suppress(OSError):
        yield from map(int, (path / "cgroup.procs").read_text().split())
