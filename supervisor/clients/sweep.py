"""Ends what an earlier daemon left behind: at the start of the daemon, and by `facilitator cleanup`.

Only for a process that holds the lock of the runtime_dir: to all others the clients of a running daemon look
like leftovers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from supervisor.clients import processes
from supervisor.clients.process_journal import Journal, JournalEntry
from supervisor.clients.reaper import ProcessTree

GRACE_SECONDS = 5.0  # from SIGTERM to SIGKILL
_KILL_ROUNDS = 10  # because new processes may appear
_ROUND_SECONDS = 1.0  # between them


@dataclass(frozen=True, slots=True)
class Leftover:
    """A process of an earlier daemon that still runs. The receiver closes `pidfd`."""

    tunnel: str
    pid: int
    pidfd: int


def tag(runtime_dir: Path, tunnel: str, session: str) -> str:
    """The value of the environment variable that every process of a session inherits. `session` is the
    session's id.
    """
    return f"{runtime_dir.resolve()}/{tunnel}/{session}"


def still_runs(entry: JournalEntry) -> bool:
    """The recorded process is alive, and not a later one with the same pid."""
    known = processes.stat(entry.pid)
    return (
        known is not None
        and known.state != "Z"
        and (known.start, processes.boot_id()) == (entry.start, entry.boot)
    )


def leftovers(journal: Journal, spared: Container[str] = ()) -> list[Leftover]:
    """Processes of an earlier daemon with this runtime_dir that still run, in trees or alone. Reads all of
    /proc, once.

    `spared`: slots whose recorded client was adopted. What an earlier client of these slots left is found
    nevertheless.
    """
    written = journal.load().values()
    entries = [entry for entry in written if still_runs(entry)]
    mains = {entry.pid: entry.tunnel for entry in entries}
    known = {entry.pid for entry in entries if entry.place in spared}
    tags = {tag(journal.runtime_dir, entry.tunnel, entry.id) for entry in entries if entry.place in spared}
    for pid in tuple(known):
        known |= processes.descendants(pid)
    found = {}
    for pid, tunnel, start in _ours(
        mains, Home(journal.runtime_dir, frozenset(entry.id for entry in written))
    ):
        if pid in found or pid in known or processes.tag_of(pid) in tags:
            continue
        if (pidfd := _pinned(pid, start)) is not None:
            found[pid] = Leftover(tunnel, pid, pidfd)
    return list(found.values())


def other_homes(runtime_dir: Path) -> dict[Path, list[tuple[str, int]]]:
    """Processes of sessions that were started in this network namespace with another runtime_dir: tunnel and
    pid of each, by that directory. Whether a daemon supervises them is not known here. Reads all of /proc,
    once.
    """
    found: dict[Path, list[tuple[str, int]]] = {}
    for pid in processes.all_pids():
        words = (processes.tag_of(pid) or "").rsplit("/", 2)
        if len(words) == 3 and words[0] != str(runtime_dir.resolve()) and _beside_us(pid):
            found.setdefault(Path(words[0]), []).append((words[1], pid))
    return found


def _beside_us(pid: int) -> bool:
    """It lives in our network namespace. (A zombie has no environment, so no tag either.)"""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino
    except OSError:
        return False


async def sweep(
    journal: Journal, spared: Container[str] = (), grace: float = GRACE_SECONDS
) -> list[tuple[str, int]]:
    """SIGTERM to all leftovers, SIGKILL after `grace` seconds, then clear the journal; returns (tunnel, pid)
    of what was found.
    """
    there_was: dict[int, str] = {}
    patience, sent = grace, signal.SIGTERM
    for _ in range(1 + _KILL_ROUNDS):
        left = leftovers(journal, spared)
        if not left:
            break
        there_was |= {one.pid: one.tunnel for one in left}
        await _signal_and_wait(left, sent, patience)
        patience, sent = _ROUND_SECONDS, signal.SIGKILL
    journal.clear(keep=spared)
    return [(tunnel, pid) for pid, tunnel in there_was.items()]


async def end_strangers(tree: ProcessTree, within: float) -> bool:
    """Kill what is left of an adopted client that was never our child, after its main process ended. False:
    something still lives after `within` seconds.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            while left := _strangers(tree):
                await _signal_and_wait(left, signal.SIGKILL, within)
            return True
    return False


def _strangers(tree: ProcessTree) -> list[Leftover]:
    """Found by tag and by recorded descendants; the session number may belong to another process by now."""
    found = []
    for pid in processes.all_pids():
        known = processes.stat(pid)
        if (
            known is None
            or known.state == "Z"
            or not (tree.seen.get(pid) == known.start or processes.tag_of(pid) == tree.tag)
        ):
            continue
        if (pidfd := _pinned(pid, known.start)) is not None:
            found.append(Leftover(tree.tag, pid, pidfd))
    return found


@dataclass(frozen=True, slots=True)
class Home:
    """A daemon's runtime_dir as it appears in tags: a path may mean another directory in another mount
    namespace.
    """

    directory: Path
    sessions: frozenset[str]  # ids of sessions that its journal knows

    def tunnel(self, pid: int, carried: str | None) -> str | None:
        """Whose client a process with this tag is, if it is one of ours."""
        prefix = f"{self.directory.resolve()}/"
        if carried is None or not carried.startswith(prefix):
            return None
        tunnel, _, session = carried.removeprefix(prefix).partition("/")
        if not session or "/" in session:  # the tag of a runtime_dir inside ours
            return None
        return tunnel if session in self.sessions or self._is_seen_by(pid) else None

    def _is_seen_by(self, pid: int) -> bool:
        """Under that path the process sees this very directory, or one that was removed: then nobody else
        looks after it.
        """
        try:
            ours, theirs = os.stat(self.directory), os.stat(f"/proc/{pid}/root{self.directory.resolve()}")
        except OSError:
            return False
        return theirs.st_nlink == 0 or (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)


def _ours(mains: dict[int, str], home: Home) -> Iterator[tuple[int, str, int]]:
    """Pid, tunnel and start time of whatever is, descends from, or shares the session of a known main
    process, or carries our tag.
    """
    trees = dict(mains)
    for pid, tunnel in mains.items():
        trees |= dict.fromkeys(processes.descendants(pid), tunnel)
    for pid in processes.all_pids():
        known = processes.stat(pid)
        if known is None or known.state == "Z" or pid == os.getpid():
            continue
        owner = trees.get(pid) or mains.get(known.session) or home.tunnel(pid, processes.tag_of(pid))
        if owner is not None:
            yield pid, owner, known.start


def _pinned(pid: int, start: int) -> int | None:
    """A pidfd of that very process: it still has its start time after the pidfd was opened."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    known = processes.stat(pid)
    if known is not None and known.start == start:
        return pidfd
    os.close(pidfd)
    return None


async def _signal_and_wait(left: Sequence[Leftover], number: signal.Signals, within: float) -> None:
    try:
        for one in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(one.pidfd, number)
                # a flooding client may have been stopped (SIGSTOP) when the daemon died
                signal.pidfd_send_signal(one.pidfd, signal.SIGCONT)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                for one in left:
                    await processes.ended(one.pidfd)
    finally:
        for one in left:
            os.close(one.pidfd)
