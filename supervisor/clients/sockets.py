"""The two sockets through which a client may talk to us beside its output: its management socket and its private NOTIFY_SOCKET."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_exponential

from supervisor.clients.lines import LineSplitter
from supervisor.clients.log import Log
from supervisor.clients.notices import APPEARED, Notices

LONGEST_PATH = 107              # bytes; sun_path in struct sockaddr_un
_LINE = 64 << 10                # bytes of one management line
_CHUNK = 16 << 10
_DATAGRAMS = 32                 # read in one turn of the loop


class Management:
    """The connection to a socket that the client makes. `receive` gets each line, and an empty one whenever we have just connected."""

    def __init__(self, path: Path, notices: Notices, receive: Callable[[str], None], log: Log) -> None:
        self._path, self._notices, self._receive, self._log = path, notices, receive, log
        self._appeared = asyncio.Event()
        self._unsent: list[bytes] = []
        self._writer: asyncio.StreamWriter | None = None
        self._closing = False
        self._watch: int | None = notices.watch(path.parent, APPEARED, self._on_entry)
        self._task = asyncio.get_running_loop().create_task(self._converse(), name=f"management {path.parent.name}")

    def send(self, line: str) -> None:
        """Send one line, now or as soon as there is a connection."""
        data = line.encode() + b"\n"
        if self._writer is None:
            self._unsent.append(data)
        else:
            self._writer.write(data)

    async def drain(self, within: float) -> None:
        """The client is gone: take what it has written, and stop."""
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
            self._notices.unwatch(self._watch)
            self._watch = None

    def _on_entry(self, name: str | None) -> None:
        if name in (None, self._path.name):
            self._appeared.set()

    async def _converse(self) -> None:
        try:
            while not self._closing:
                await self._connection()
        except OSError as error:        # the session goes on without it, until its start timeout or its probe says more
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
            with contextlib.suppress(OSError):      # not there yet, or not ours: the next entry in the directory is the next chance
                return await _connect_when_listening(self._path)
            await self._appeared.wait()

    def _greet(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._receive("")
        writer.writelines(self._unsent)
        self._unsent.clear()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        splitter = LineSplitter(_LINE)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_CHUNK):
                for line in splitter.feed(data):
                    self._receive(line)
                await asyncio.sleep(0)      # a reader with a full buffer would not give way by itself
        for line in splitter.flush():
            self._receive(line)


async def _connect_when_listening(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Between bind and listen of the client, of which the kernel tells nobody, a connection is refused: try again in milliseconds."""
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type((ConnectionRefusedError, BlockingIOError)),
        wait=wait_exponential(multiplier=0.001, max=0.25),
        stop=stop_after_delay(60),
        reraise=True,
    ):
        with attempt:
            return await asyncio.open_unix_connection(path)
    raise AssertionError("unreachable: the last attempt raises")


class NotifySocket:
    """A private datagram socket that speaks sd_notify(3). OSError: it cannot be made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._receive: Callable[[str], None] | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            path.unlink(missing_ok=True)
            self._socket.bind(os.fspath(path))
        except OSError:
            self._socket.close()
            raise

    def listen(self, receive: Callable[[str], None]) -> None:
        """From now on `receive` gets each field of each datagram."""
        self._receive = receive
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def drain(self) -> None:
        """Take what has arrived, and stop."""
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
                splitter = LineSplitter()
                for line in splitter.feed(self._socket.recv(65536)) + splitter.flush():
                    if line and self._receive is not None:
                        self._receive(line)
