"""The connection to the management socket of an OpenVPN server.

Replies come in the order of the commands, with events in between. Both are handed on in the order in which
they are read, within the same turn of the loop: a table of clients and the events around it fit together.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from hub.core.openvpn import commands
from hub.core.openvpn.messages import AddressMessage, ClientMessage, HoldMessage, MessageReader, ReplyLine

ServerEvent = ClientMessage | AddressMessage | HoldMessage
ReplyTaker = Callable[[Sequence[str]], None]
_CHUNK_BYTES = 64 << 10
_MAX_REPLY_LINES = 100_000
_SEVERAL_LINES = frozenset({commands.STATUS, commands.VERSION})


class ServerConnection:
    """One connection. `receive` gets each event of the server; it must not raise, nor a taker of replies."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        receive: Callable[[ServerEvent], None],
    ) -> None:
        self._reader, self._writer, self._receive = reader, writer, receive
        self._replies: deque[tuple[bool, ReplyTaker | None]] = deque()
        self._lines: list[str] = []

    def command(self, command: str, then: ReplyTaker | None = None) -> None:
        """Send a command; `then` gets the lines of its reply, of a refused one a single line `ERROR: ...`."""
        self._replies.append((command in _SEVERAL_LINES, then))
        self._writer.write(command.encode() + b"\n")

    async def listen(self) -> None:
        """Hand on what the server says, until it or we close the connection."""
        messages = MessageReader()
        with contextlib.suppress(ConnectionError):
            while data := await self._reader.read(_CHUNK_BYTES):
                for message in messages.feed(data):
                    if isinstance(message, ReplyLine):
                        self._reply(message)
                    else:
                        self._receive(message)
                await asyncio.sleep(0)  # a reader with a full buffer would not give way by itself

    def close(self) -> None:
        """End it; replies that have not come are not waited for."""
        self._writer.close()

    def _reply(self, line: ReplyLine) -> None:
        if not self._replies:
            return
        several, then = self._replies[0]
        if len(self._lines) < _MAX_REPLY_LINES:
            self._lines.append(line.text)
        if several and not line.last:
            return
        self._replies.popleft()
        lines, self._lines = self._lines, []
        if then is not None:
            then(lines)


async def connect(path: Path, receive: Callable[[ServerEvent], None]) -> ServerConnection:
    """Connect to the socket. OSError: nobody listens there."""
    reader, writer = await asyncio.open_unix_connection(path)
    return ServerConnection(reader, writer, receive)
