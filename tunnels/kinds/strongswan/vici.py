"""The vici protocol, by which charon (strongSwan's daemon) is controlled: requests, responses and events over
its unix socket (src/libcharon/plugins/vici/README.md of strongSwan).

    message (nested dict) <-> encode/decode <-> packets <-> Vici <-> tunnels/kinds/strongswan/driver.py

strongSwan's own Python client (PyPI: vici) blocks the calling thread, which does not fit an event loop; its
codec is the oracle of ours in tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

Value = str | Sequence[str] | Mapping[str, "Value"]
Message = Mapping[str, Value]

_MAX_PACKET_BYTES = 512 << 10  # by the protocol
_MAX_DEPTH = 32  # of nested sections


class _Packet(enum.IntEnum):
    REQUEST = 0
    RESPONSE = 1
    UNKNOWN_REQUEST = 2
    REGISTER = 3
    CONFIRMED = 5
    UNKNOWN_EVENT = 6
    EVENT = 7


class _Element(enum.IntEnum):
    SECTION_START = 1
    SECTION_END = 2
    KEY_VALUE = 3
    LIST_START = 4
    LIST_ITEM = 5
    LIST_END = 6


class ViciError(Exception):
    """charon refused a request; the text is its own."""


# --- messages
# ----------------------------------------------------------------------------------------------------------


def encode(message: Message) -> bytes:
    """The bytes of a message. ValueError: a name is longer than 255 bytes or a value than 65535."""
    return b"".join(_encoded(message))


def _encoded(message: Message) -> Iterator[bytes]:
    for name, value in message.items():
        if isinstance(value, str):
            yield _named(_Element.KEY_VALUE, name) + _blob(value)
        elif isinstance(value, Mapping):
            yield _named(_Element.SECTION_START, name)
            yield from _encoded(value)
            yield bytes((_Element.SECTION_END,))
        else:
            yield _named(_Element.LIST_START, name)
            yield from (bytes((_Element.LIST_ITEM,)) + _blob(item) for item in value)
            yield bytes((_Element.LIST_END,))


def _named(kind: int, name: str) -> bytes:
    data = name.encode()
    if len(data) > 0xFF:
        raise ValueError("a name is too long")
    return bytes((kind, len(data))) + data


def _blob(value: str) -> bytes:
    data = value.encode()
    if len(data) > 0xFFFF:
        raise ValueError("a value is too long")
    return struct.pack("!H", len(data)) + data


class _Reader:
    """Reads the elements of a message; ValueError when it ends too soon."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def element(self) -> _Element:
        return _Element(self._take(1)[0])

    def name(self) -> str:
        return self._take(self._take(1)[0]).decode(errors="replace")

    def value(self) -> str:
        return self._take(int.from_bytes(self._take(2), "big")).decode(errors="replace")

    def _take(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        if len(part) < count:
            raise ValueError("the message ends too soon")
        self._at += count
        return part


def decode(data: bytes) -> dict[str, Value]:
    """The message in these bytes. ValueError: they are malformed."""
    return _section(_Reader(data), 0)


def _section(reader: _Reader, depth: int) -> dict[str, Value]:
    found: dict[str, Value] = {}
    while reader:
        element = reader.element()
        if element is _Element.SECTION_END and depth > 0:
            return found
        name = reader.name()
        match element:
            case _Element.KEY_VALUE:
                found[name] = reader.value()
            case _Element.LIST_START:
                found[name] = _list(reader)
            case _Element.SECTION_START if depth < _MAX_DEPTH:
                found[name] = _section(reader, depth + 1)
            case _:
                raise ValueError(f"{element.name} is out of place")
    if depth:
        raise ValueError("a section is never closed")
    return found


def _list(reader: _Reader) -> list[str]:
    items: list[str] = []
    while (element := reader.element()) is _Element.LIST_ITEM:
        items.append(reader.value())
    if element is not _Element.LIST_END:
        raise ValueError(f"{element.name} in a list")
    return items


# --- the conversation
# ----------------------------------------------------------------------------------------------------------


class Vici:
    """A connection to charon. One request at a time; events come at any time."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_event: Callable[[str, Message], None],
    ) -> None:
        self._writer, self._on_event = writer, on_event
        self._turn = asyncio.Lock()
        self._response: asyncio.Future[tuple[_Packet, bytes]] | None = None
        self._reading = asyncio.create_task(self._read(reader))

    @classmethod
    async def connect(cls, path: Path, on_event: Callable[[str, Message], None]) -> Vici:
        """Connect to charon's socket. OSError: nobody listens."""
        return cls(*await asyncio.open_unix_connection(path), on_event)

    async def request(self, command: str, message: Message | None = None) -> Message:
        """Send a command; returns its response. ViciError: it failed; ConnectionError: charon has ended."""
        _, data = await self._ask(_Packet.REQUEST, command, encode(message or {}))
        response = decode(data)
        if response.get("success", "yes") != "yes":
            raise ViciError(str(response.get("errmsg", "failed")))
        return response

    async def register(self, event: str) -> None:
        """Get this event from now on. ViciError: charon does not know it."""
        await self._ask(_Packet.REGISTER, event, b"")

    async def _ask(self, kind: _Packet, name: str, data: bytes) -> tuple[_Packet, bytes]:
        async with self._turn:
            self._response = asyncio.get_running_loop().create_future()
            if self._reading.done():
                raise ConnectionError("charon is gone")
            packet = _named(kind, name) + data
            self._writer.write(struct.pack("!I", len(packet)) + packet)
            answer, body = await self._response
        if answer in (_Packet.UNKNOWN_REQUEST, _Packet.UNKNOWN_EVENT):
            raise ViciError(f"charon does not know {name}")
        return answer, body

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
                while (length := int.from_bytes(await reader.readexactly(4), "big")) <= _MAX_PACKET_BYTES:
                    self._take(await reader.readexactly(length))
        finally:
            self._writer.close()
            if self._response is not None and not self._response.done():
                self._response.set_exception(ConnectionError("charon is gone"))

    def _take(self, packet: bytes) -> None:
        if packet[0] == _Packet.EVENT:
            name, body = packet[2 : 2 + packet[1]], packet[2 + packet[1] :]
            self._on_event(name.decode(errors="replace"), decode(body))
        elif self._response is not None and not self._response.done():
            self._response.set_result((_Packet(packet[0]), packet[1:]))
