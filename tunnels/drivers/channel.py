"""How a program of ours that drives a VPN client talks with the daemon: JSON objects, one a line, over a
unix socket that it listens on.

    to the daemon      {"ask": "password", "id": 1, "text": "Password:"}   {"failed": "auth", "text": ...}
    {"keep": "SECRET"}
                       {"connected": {"address": ..., "address6": ..., "on_interface": ..., "peer": ...,
                       "routes": [...], "lasts": ...}}
    from the daemon    {"id": 1, "answer": ...}   {"renew": true}   {"leave": true}

The daemon may go and come back at any time: whoever connects is first told everything that still holds. Other
clients of the daemon's user can connect too, so the first line must be the key that the daemon has given us
when it started us.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

SOCKET = "management.sock"  # in the private directory that is the program's working directory
_LINE = 256 << 10  # bytes of one line from the daemon
_KEY_WITHIN = 5.0  # seconds for the first line


def assigned(addresses: Iterable[object]) -> dict[str, str]:
    """The facts of `connected` about the addresses that the remote gateway assigned: the first one of each
    version counts.
    """
    found: dict[str, str] = {}
    for address in map(str, addresses):
        found.setdefault("address6" if ":" in address else "address", address)
    return found


class Talk:
    """The program's side. Begin with `listen`; everything happens on the running loop."""

    def __init__(
        self, key: int, renew: Callable[[], None] = lambda: None, leave: Callable[[], None] = lambda: None
    ) -> None:
        """`key`: descriptor of a file with the key. `renew` is called when the daemon wants the client to
        reconnect in place; `leave` when
        the tunnel's end, which follows, is meant to last, so that the far side need not keep the session."""
        self._key, self._renew, self._leave = os.pread(key, 256, 0), renew, leave
        self._writer: asyncio.StreamWriter | None = None
        self._holds: dict[str, dict[str, Any]] = {}  # what still holds, by its first key
        self._questions: dict[int, asyncio.Future[str]] = {}
        self._asked = 0
        self._since = 0.0  # monotonic seconds: when the tunnel came up

    async def listen(self, path: Path = Path(SOCKET)) -> None:
        """Make the socket and serve one daemon after the other."""
        path.unlink(missing_ok=True)
        await asyncio.start_unix_server(self._serve, path, limit=_LINE)

    # --- to the daemon
    # ------------------------------------------------------------------------------------------------------

    def connected(self, **facts: Any) -> None:
        """The tunnel is up: `assigned` addresses, peer (text), routes (list of networks), lasts (seconds
        of the session), on_interface
        (the client itself has put the addresses on its interface)."""
        self._since = time.monotonic()
        self._tell("connected", {"connected": facts})

    def failed(self, reason: str, text: str) -> None:
        """The session cannot go on; `reason` is a word of `tunnels.base.Reason`."""
        self._tell("failed", {"failed": reason, "text": text})

    def keep(self, secret: str) -> None:
        """What lets the next session begin without a login; empty: nothing does any more."""
        self._tell("keep", {"keep": secret})

    async def ask(self, what: str, text: str = "") -> str:
        """The answer to a question: `username`, `password`, `code`, `text`, or `approval` (cancel it when
        the approval came).
        """
        self._asked += 1
        number = self._asked
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._questions[number] = answer
        try:
            self._tell("ask", {"ask": what, "id": number, "text": text})
            return await answer
        finally:
            del self._questions[number], self._holds["ask"]

    def _tell(self, name: str, message: dict[str, Any]) -> None:
        self._holds[name] = message
        self._write(message)

    def _write(self, message: dict[str, Any]) -> None:
        if self._writer is not None:
            self._writer.write(json.dumps(message).encode() + b"\n")

    def _aged(self, message: dict[str, Any]) -> dict[str, Any]:
        """The same when it is told later: a session lasts less long then."""
        facts = message.get("connected", {})
        if facts.get("lasts") is None:
            return message
        return {"connected": {**facts, "lasts": max(1.0, facts["lasts"] - (time.monotonic() - self._since))}}

    # --- from the daemon
    # ------------------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not await self._knows_key(reader):
            writer.close()
            return
        if self._writer is not None:
            self._writer.close()
        self._writer = writer
        for message in self._holds.values():
            self._write(self._aged(message))
        try:
            with contextlib.suppress(ConnectionError, ValueError):  # ValueError: a line beyond the limit
                while line := await reader.readline():
                    self._take(json.loads(line))
        finally:
            if self._writer is writer:
                self._writer = None
            writer.close()

    async def _knows_key(self, reader: asyncio.StreamReader) -> bool:
        with contextlib.suppress(ConnectionError, ValueError, TimeoutError):
            async with asyncio.timeout(_KEY_WITHIN):
                return await reader.readline() == self._key
        return False

    def _take(self, message: dict[str, Any]) -> None:
        if "renew" in message:
            self._renew()
        if "leave" in message:
            self._leave()
        question = self._questions.get(message.get("id", 0))
        if question is not None and not question.done():
            question.set_result(message["answer"])
