"""Bytes from the management socket of an OpenVPN server -> messages. Pure.

What clients send is inside (peer information, user names, answers), so nothing is trusted: lines, variables
and blocks are bounded, what does not parse is left out, and no input ends the reader. The protocol:
doc/management-notes.txt of OpenVPN 2.6.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

MAX_LINE_BYTES = 16 << 10  # a longer line is none that OpenVPN 2.6 writes
MAX_VARIABLES = 512  # in one block of ENV lines
MAX_ID = 2**63 - 1  # of a client (CID) or a key (KID)
_CLIENT = ">CLIENT:"
_HOLD = ">HOLD:"


class ClientEvent(enum.StrEnum):
    """What happened to a client, with a block of variables."""

    CONNECT = "CONNECT"  # it wants to log in
    REAUTH = "REAUTH"  # it renegotiates its keys
    ESTABLISHED = "ESTABLISHED"  # it has its address
    DISCONNECT = "DISCONNECT"
    CR_RESPONSE = "CR_RESPONSE"  # it answers the question that was asked on its connection (CR_TEXT)


_WITH_KEY = frozenset({ClientEvent.CONNECT, ClientEvent.REAUTH, ClientEvent.CR_RESPONSE})


@dataclass(frozen=True, slots=True)
class ClientMessage:
    """An event of the client `cid`; `kid` is the key that is to be decided on, where there is one."""

    event: ClientEvent
    cid: int
    kid: int | None = None
    answer: str = field(default="", repr=False)  # of a CR_RESPONSE, in base64
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # holds passwords: never for a log


@dataclass(frozen=True, slots=True)
class AddressMessage:
    """The client uses this virtual address now."""

    cid: int
    address: str
    primary: bool


@dataclass(frozen=True, slots=True)
class HoldMessage:
    """The server has started and waits for `hold release` before it serves anybody."""


@dataclass(frozen=True, slots=True)
class ReplyLine:
    """One line of the reply to a command."""

    text: str

    @property
    def refused(self) -> bool:
        """The command had no effect."""
        return self.text.startswith("ERROR:")

    @property
    def last(self) -> bool:
        """It ends a reply of several lines."""
        return self.text == "END" or self.refused


ServerMessage = ClientMessage | AddressMessage | HoldMessage | ReplyLine


class MessageReader:
    """Puts a stream of chunks together. The messages do not depend on where the chunks begin and end."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._overlong = False  # inside a line that is too long: it is left out to its end
        self._block: ClientMessage | None = None
        self._env: dict[str, str] = {}

    def feed(self, data: bytes) -> Iterator[ServerMessage]:
        """The messages that end in this chunk."""
        *ended, rest = data.split(b"\n")
        for part in ended:
            self._hold(part)
            whole, usable = bytes(self._held), not self._overlong
            self._held.clear()
            self._overlong = False
            if usable:
                yield from self._line(whole.removesuffix(b"\r").decode("utf-8", "replace"))
        self._hold(rest)

    def _hold(self, part: bytes) -> None:
        if len(self._held) + len(part) > MAX_LINE_BYTES:
            self._overlong = True
            self._held.clear()
        elif not self._overlong:
            self._held += part

    def _line(self, line: str) -> Iterator[ServerMessage]:
        if line.startswith(_CLIENT):
            yield from self._client(line.removeprefix(_CLIENT))
        elif line.startswith(_HOLD):
            yield HoldMessage()
        elif line and not line.startswith(">"):
            yield ReplyLine(line)

    def _client(self, line: str) -> Iterator[ServerMessage]:
        head, _, rest = line.partition(",")
        if head == "ENV":
            yield from self._variable(rest)
        elif head == "ADDRESS":
            address = _address(rest)
            if address is not None:
                yield address
        else:
            self._block, self._env = _event(head, rest), {}

    def _variable(self, rest: str) -> Iterator[ServerMessage]:
        if rest == "END":
            if self._block is not None:
                block = self._block
                yield ClientMessage(block.event, block.cid, block.kid, block.answer, self._env)
            self._block, self._env = None, {}
            return
        name, equals, value = rest.partition("=")
        # The server's own variables come after what the client says of itself: the last one counts.
        if equals and (name in self._env or len(self._env) < MAX_VARIABLES):
            self._env[name] = value


def _event(head: str, rest: str) -> ClientMessage | None:
    if head not in ClientEvent.__members__:
        return None
    event = ClientEvent(head)
    cid, _, rest = rest.partition(",")
    kid, _, answer = rest.partition(",")
    client, key = _number(cid), _number(kid)
    if client is None or (event in _WITH_KEY and key is None):
        return None
    return ClientMessage(
        event, client, key if event in _WITH_KEY else None, answer if event is ClientEvent.CR_RESPONSE else ""
    )


def _address(rest: str) -> AddressMessage | None:
    fields = rest.split(",")
    cid = _number(fields[0])
    if len(fields) != 3 or cid is None:
        return None
    try:
        address = str(ipaddress.ip_address(fields[1]))
    except ValueError:
        return None
    return AddressMessage(cid, address, primary=fields[2] == "1")


def _number(text: str) -> int | None:
    """A decimal number in the range of ids; None: it is none."""
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_ID))):
        return None
    number = int(text)
    return number if number <= MAX_ID else None
