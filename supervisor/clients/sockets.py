"""The two sockets between a client and the daemon: the client's management socket, and its private
NOTIFY_SOCKET.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
import struct
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

from supervisor import disk
from supervisor.clients.inotify import APPEARED, InotifyWatches
from supervisor.clients.lines import LineSplitter
from supervisor.clients.log import Log

MAX_PATH_BYTES = 107  # sun_path in struct sockaddr_un (unix(7))
_MAX_LINE_BYTES = 64 << 10  # from the management socket
_CHUNK_BYTES = 16 << 10  # read at once
_DATAGRAMS = 32  # read in one turn of the loop
_SENDER = struct.Struct("3i")  # struct ucred: pid, uid, gid
_CREDENTIALS = (socket.SOL_SOCKET, socket.SCM_CREDENTIALS)
_ANCILLARY = socket.CMSG_SPACE(_SENDER.size) + socket.CMSG_SPACE(8 * 4)  # bytes

Ancillary = tuple[int, int, bytes]


class Management:
    """The connection to a socket that the client creates. `receive` gets each line, and an empty one after
    each connect.

    Other clients of our user can connect to it too, so `key` is sent first.
    """

    def __init__(
        self, path: Path, watches: InotifyWatches, receive: Callable[[str], None], log: Log, key: str = ""
    ) -> None:
        self._path, self._watches, self._receive, self._log, self._key = path, watches, receive, log, key
        self._appeared = asyncio.Event()
        self._unsent: list[bytes] = []
        self._writer: asyncio.StreamWriter | None = None
        self._closing = False
        self._watch: int | None = watches.watch(path.parent, APPEARED, self._on_entry)
        self._task = asyncio.get_running_loop().create_task(
            self._converse(), name=f"management {path.parent.name}"
        )

    def send(self, line: str) -> None:
        """Send one line, now or as soon as there is a connection."""
        data = line.encode() + b"\n"
        if self._writer is None:
            self._unsent.append(data)
        else:
            self._writer.write(data)

    async def drain(self, within: float) -> None:
        """Read what the ended client has written, and stop."""
        self._closing = True
        if self._writer is not None:
            await asyncio.wait([self._task], timeout=within)
        await self.close()

    async def close(self) -> None:
        """Stop at once."""
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._watch is not None:
            self._watches.unwatch(self._watch)
            self._watch = None

    def _on_entry(self, name: str | None) -> None:
        if name in (None, self._path.name):
            self._appeared.set()

    async def _converse(self) -> None:
        try:
            while not self._closing:
                await self._connection()
        except (
            OSError
        ) as error:  # the session goes on without it, until its start timeout or its probe says more
            self._log.note(f"the management connection failed: {error}")

    async def _connection(self) -> None:
        """One connection, from its beginning to its end."""
        reader, writer = await self._connect()
        try:
            self._greet(writer)
            await self._listen(reader)
        finally:
            self._writer = None
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            self._appeared.clear()
            with contextlib.suppress(
                OSError
            ):  # not there yet, or not ours: the next entry in the directory is the next chance
                return await _connect_when_listening(self._path)
            await self._appeared.wait()

    def _greet(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        if self._key:
            writer.write(self._key.encode() + b"\n")
        self._receive("")
        writer.writelines(self._unsent)
        self._unsent.clear()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        splitter = LineSplitter(_MAX_LINE_BYTES)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_CHUNK_BYTES):
                for line in splitter.feed(data):
                    self._receive(line)
                await asyncio.sleep(0)  # a reader with a full buffer would not give way by itself
        for line in splitter.flush():
            self._receive(line)


async def _connect_when_listening(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Between bind and listen of the client, of which the kernel tells nobody, a connection is refused:
    try again in milliseconds.
    """
    # Slow to import, and not needed for the start.
    from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_exponential

    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type((ConnectionRefusedError, BlockingIOError)),
        wait=wait_exponential(multiplier=0.001, max=0.25),
        stop=stop_after_delay(60),
        reraise=True,
    ):
        with attempt:
            return await _connect(path)
    raise AssertionError("unreachable: the last attempt raises")


async def _connect(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The client may change its directory: a link in the socket's place would lead us to another client."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK), str(path))
        return await asyncio.open_unix_connection(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


class NotifySocket:
    """A private datagram socket for sd_notify(3). OSError: it cannot be created."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._receive: Callable[[str], None] = lambda line: None
        self._may: Callable[[int], bool] = lambda pid: False
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        try:
            disk.make_way(path)
            path.unlink(missing_ok=True)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self._socket.bind(os.fspath(path))
        except OSError:
            self._socket.close()
            raise

    def listen(self, receive: Callable[[str], None], may: Callable[[int], bool]) -> None:
        """Pass each field of each datagram to `receive`, if `may` accepts the pid of its sender."""
        self._receive, self._may = receive, may
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def drain(self) -> None:
        """Read what has arrived, and stop."""
        self._read()
        self.close()

    def close(self) -> None:
        """Stop at once."""
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self.path.unlink(missing_ok=True)

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            for _ in range(_DATAGRAMS):
                data, ancillary, _, _ = self._socket.recvmsg(65536, _ANCILLARY)
                try:
                    self._take(data, ancillary)
                finally:
                    _close(ancillary)

    def _take(self, data: bytes, ancillary: Sequence[Ancillary]) -> None:
        sender = next(
            (_SENDER.unpack(it)[0] for level, kind, it in ancillary if (level, kind) == _CREDENTIALS), 0
        )
        if not self._may(sender):
            return
        splitter = LineSplitter()
        for line in splitter.feed(data) + splitter.flush():
            if line:
                self._receive(line)


def _close(ancillary: Sequence[Ancillary]) -> None:
    """Descriptors that came along. systemd-notify waits until its one is closed, and so lives until its
    message was judged.
    """
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            for fd in array("i", data[: len(data) - len(data) % 4]):
                os.close(fd)
