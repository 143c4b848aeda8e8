"""A client's stdout and stderr: a file that the client appends to and the daemon follows. A pipe would fill
up, and break when the daemon restarts.

The file is bounded: at its limit its end is saved to another file and it is truncated (with O_APPEND the next
write starts at the beginning). A client that writes faster than we read is stopped (SIGSTOP) for a
millisecond at each cut; the bytes in between are lost and counted. All followers share one lock, so that one
turn of the event loop does one slice of this work, however many clients flood.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from supervisor import disk
from supervisor.clients.inotify import WRITTEN_ONCE, InotifyWatches
from supervisor.clients.lines import LineSplitter
from supervisor.clients.log import Log

NAME = "output.log"
PREVIOUS = "output.log.1"
READ = "output.read"  # offset up to which NAME was read: a later daemon continues there
KEEP_BYTES = 1 << 20  # of the end that survive a cut, in PREVIOUS
CUT_IF_READ_BYTES = 3 << 20  # cut at this size if everything is read
CUT_BYTES = 4 << 20  # cut at this size in any case
CHUNK_BYTES = 16 << 10  # split into lines at once
# Read in any case before a cut and at the end: the last lines say why a client ended.
LAST_LINES_BYTES = 64 << 10
SLICE_SECONDS = 0.002  # of work in one turn of the event loop


def open_for_client(directory: Path) -> int:
    """Open a descriptor for the client's stdout and stderr. OSError: it cannot be opened."""
    disk.make_way(directory / NAME)
    return disk.opened(directory / NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def unsure_from(directory: Path, begin: int | None) -> int | None:
    """Where to read on the output of a session that begins at this offset and may have said more than its
    state shows: a daemon records what it has read before it records what followed from that.

    None: where the earlier daemon stopped, because the beginning is not known or was cut off.
    """
    with contextlib.suppress(OSError):
        return begin if begin is not None and begin <= _read_until(directory) else None
    return None


def read_before(directory: Path, end: int | None = None) -> bytes:
    """The last bytes before an offset, starting after a newline. None: before where an earlier daemon stopped
    reading.
    """
    with contextlib.suppress(OSError), open(disk.opened(directory / NAME, os.O_RDONLY), "rb") as file:
        end = _read_until(directory) if end is None else end
        start = max(0, end - LAST_LINES_BYTES)
        file.seek(start)
        return file.read(end - start)
    return b""


def _read_until(directory: Path) -> int:
    """The offset up to which an earlier daemon has read. OSError: it is not recorded."""
    return int.from_bytes(disk.read(directory / READ, 8), "little")


class Follower:
    """Follows the output of one session. `take(lines, until)` takes lines until a time (monotonic seconds),
    and returns whether it took any.

    `log` is informed of losses; `pause(True)` stops the client, `pause(False)` continues it. Reading starts
    at `offset`; None: where an earlier daemon stopped.
    """

    def __init__(
        self,
        directory: Path,
        offset: int | None,
        watches: InotifyWatches,
        turn: asyncio.Lock,
        take: Callable[[Iterator[str], float], bool],
        log: Log,
        pause: Callable[[bool], None],
    ) -> None:
        self._path, self._previous = directory / NAME, directory / PREVIOUS
        self._offset = _read_until(directory) if offset is None else offset
        self._fd = disk.opened(self._path, os.O_RDWR)
        self._splitter = LineSplitter()
        self._note_offset()
        self._watches, self._turn, self._take, self._log, self._pause = watches, turn, take, log, pause
        self._lines: Iterator[str] = iter(())  # split, but not taken yet
        self._unsplit = b""  # read before the last cut, but not split into lines yet
        self._gap = 0  # bytes lost between `_unsplit` and what the file holds now
        self._saving: asyncio.Future[None] | None = None
        self._written = asyncio.Event()
        self._watch: int | None = None
        self._end: float | None = None  # event loop time after which unread output is given up
        self._task = asyncio.get_running_loop().create_task(self._follow(), name=f"follow {directory.name}")

    async def drain(self, within: float) -> None:
        """Take everything that is written until now, or after `within` seconds at least the last lines, and
        stop.
        """
        self._end = asyncio.get_running_loop().time() + within
        self._written.set()
        await asyncio.wait([self._task], timeout=2 * within)
        await self.close()

    async def close(self) -> None:
        """Stop at once."""
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._watch is not None:
            self._watches.unwatch(self._watch)
            self._watch = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def _follow(self) -> None:
        try:
            await self._until_drained()
        except OSError as error:  # the client goes on without output
            self._log.note(f"its output cannot be followed any more: {error}")

    async def _until_drained(self) -> None:
        await self._catch_up()
        while self._end is None:
            await self._written.wait()
            self._written.clear()
            await self._catch_up()
        self._take(iter(self._splitter.flush()), time.monotonic() + SLICE_SECONDS)

    async def _catch_up(self) -> None:
        """Read to the end of the file, one slice in each turn of the event loop."""
        while True:
            async with self._turn:
                more = self._work()
            if self._full():
                await self._cut()
            elif not more:
                self._note_offset()
                return
            self._give_up_if_late()
            # a flooding client costs the daemon at most half a core
            await asyncio.sleep(SLICE_SECONDS if self._end is None else 0)

    def _work(self) -> bool:
        """Do one slice; False: nothing is left."""
        end = time.monotonic() + SLICE_SECONDS
        while time.monotonic() < end:
            if not self._take(self._lines, end) and not self._read() and not self._arm():
                return False
        return True

    def _read(self) -> bool:
        data, self._unsplit = self._unsplit[:CHUNK_BYTES], self._unsplit[CHUNK_BYTES:]
        if not data:
            gap, self._gap = self._gap, 0
            if gap:
                self._lose(gap)
            data = os.pread(self._fd, CHUNK_BYTES, self._offset)
            self._offset += len(data)
        if not data and self._size() < self._offset:  # somebody else truncated the file
            self._offset = 0
            return self._read()
        self._lines = iter(self._splitter.feed(data)) if data else iter(())
        return bool(data)

    def _arm(self) -> bool:
        """Wait for the next write. True: the watch is new, so read once more for what was written
        before it.
        """
        if self._watch is not None or self._end is not None:
            return False
        self._watch = self._watches.watch(self._path, WRITTEN_ONCE, self._on_written)
        return True

    def _on_written(self, _name: str | None) -> None:
        self._watch = None
        self._written.set()

    def _note_offset(self) -> None:
        """Record how far the file is read. A line without its end will be read again. If the disk is full, a
        later daemon repeats some lines.
        """
        offset = max(0, self._offset - self._splitter.held)
        with (
            contextlib.suppress(OSError),
            open(self._path.with_name(READ), "wb", buffering=0, opener=disk.opened) as file,
        ):
            file.write(offset.to_bytes(8, "little"))

    def _size(self) -> int:
        return os.fstat(self._fd).st_size

    def _full(self) -> bool:
        size = self._size()
        return size > CUT_BYTES or (size > CUT_IF_READ_BYTES and self._offset >= size)

    async def _cut(self) -> None:
        """Truncate the file. Its end is saved to PREVIOUS; the last lines are kept in memory if they were not
        read yet.
        """
        flood = self._offset < self._size()
        if (
            flood
        ):  # the writer holds the file's lock most of the time, and writes 400 MB/s while we wait for it
            self._pause(True)
        try:
            end, stop, size = await asyncio.to_thread(_take_away, os.dup(self._fd))
        finally:
            if flood:
                self._pause(False)
        self._jump(stop - LAST_LINES_BYTES)
        self._unsplit += end[len(end) - (stop - self._offset) :]
        self._gap = size - stop
        self._offset = 0
        self._note_offset()
        if self._saving is None or self._saving.done():
            self._saving = asyncio.get_running_loop().run_in_executor(None, _save, end, self._previous)

    def _give_up_if_late(self) -> None:
        if self._end is not None and asyncio.get_running_loop().time() > self._end:
            self._jump(self._size() - LAST_LINES_BYTES)

    def _jump(self, offset: int) -> None:
        """Continue at this offset if it is ahead; what is skipped is lost."""
        if offset > self._offset:
            self._lose(offset - self._offset + len(self._unsplit))
            self._unsplit = b""
            self._offset = offset

    def _lose(self, size: int) -> None:
        self._log.skipped(size)
        self._splitter.skip()


def _take_away(fd: int) -> tuple[bytes, int, int]:
    """Truncate the file; returns its end, the offset after that end, and the size at the moment of
    truncation. Closes `fd`.
    """
    try:
        start = max(0, os.fstat(fd).st_size - KEEP_BYTES)
        end = os.pread(fd, 2 * KEEP_BYTES, start)
        size = os.fstat(fd).st_size
        os.ftruncate(fd, 0)
        return end, start + len(end), size
    finally:
        os.close(fd)


def _save(data: bytes, target: Path) -> None:
    """Write the end of the output. A full disk costs only that."""
    with contextlib.suppress(OSError):
        disk.replace(target, data)
