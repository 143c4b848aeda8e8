"""The driver's end of the channel to the daemon: JSON objects, one per line, over a unix socket that the
driver listens on. The daemon's end is `tunnels.driver_dialogue`.

    to the daemon      {"ask": "password", "id": 1, "text": "Password:"}   {"keep": "SECRET"}
                       {"failed": "auth", "text": ...}
                       {"connected": {"address": ..., "address6": ..., "on_interface": ..., "peer": ...,
                                      "routes": [...], "agreed": [...], "lasts": ...,
                                      "mtu": ...}}
                       {"sign": {"seen": ..., "within": ..., "answers": ...}}
    from the daemon    {"id": 1, "answer": ...}   {"renew": true}   {"leave": true}   {"sign": true}

The daemon may restart at any time: after each connection everything that still holds is sent first. Other
clients of the daemon's user can connect too, so the first line must be the key that the daemon passed to the
driver at its start.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

SOCKET = "management.sock"  # in the driver's working directory, which is private
_MAX_LINE_BYTES = 256 << 10
_KEY_SECONDS = 5.0  # for the first line


def assigned(addresses: Iterable[object]) -> dict[str, str]:
    """The addresses that the remote gateway assigned, as `connected` takes them: the first IPv4 and the first
    IPv6.
    """
    found: dict[str, str] = {}
    for address in map(str, addresses):
        found.setdefault("address6" if ":" in address else "address", address)
    return found


class DaemonChannel:
    """Asks the daemon and reports to it. Start with `listen`; everything happens on the running
    event loop.
    """

    def __init__(
        self, key: int, renew: Callable[[], None] = lambda: None, leave: Callable[[], None] = lambda: None
    ) -> None:
        """`key`: descriptor of a file with the key. `renew` is called when the daemon wants the client to
        reconnect without ending; `leave` when no other session continues this one, so the client should log
        out.
        """
        self._key, self._renew, self._leave = os.pread(key, 256, 0), renew, leave
        self._sign_wanted = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._holds: dict[str, dict[str, Any]] = {}  # what still holds, by its first key
        self._questions: dict[int, asyncio.Future[str]] = {}
        self._asked = 0
        self._since = 0.0  # monotonic seconds: when the tunnel came up
        self._listening: asyncio.Task[None] | None = None

    async def listen(self, path: Path = Path(SOCKET)) -> None:
        """Create the socket and serve one daemon after the other."""
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._serve, path, limit=_MAX_LINE_BYTES)
        # As a task it ends first when the event loop shuts down, so that no connection is taken any more.
        self._listening = asyncio.create_task(server.serve_forever())

    # --- to the daemon
    # ------------------------------------------------------------------------------------------------------

    def connected(self, **facts: Any) -> None:
        """The tunnel is up. Facts: `assigned` addresses, peer (text), routes (list of networks), agreed
        (the only networks to which packets pass), lasts (seconds until the gateway ends the session),
        on_interface (True: the client has put the addresses on its interface), mtu
        (bytes, of the interface).
        """
        self._since = time.monotonic()
        self._tell("connected", {"connected": facts})

    def failed(self, reason: str, text: str) -> None:
        """The session cannot go on; `reason` is a word of `tunnels.base.Reason`."""
        self._tell("failed", {"failed": reason, "text": text})

    def keep(self, secret: str) -> None:
        """Let the daemon keep what spares the next login; empty: what it has is worthless now."""
        self._tell("keep", {"keep": secret})

    async def tell_signs_of_life(self, count: Callable[[], Awaitable[int | None]], within: float) -> None:
        """Whenever the daemon asks, say whether this count of packets or bytes of the gateway has grown; it
        sends one at most `within` seconds after one of ours (`tunnels.base.SignOfLife`). None: nobody knows.
        """
        before = 0
        while await self._sign_wanted.wait():
            self._sign_wanted.clear()
            if (now := await count()) is not None:
                self._write({"sign": {"seen": now > before, "within": within, "answers": True}})
                before = now

    async def ask(self, what: str, text: str = "") -> str:
        """Ask for a `username`, `password`, `code` or `text` and return the answer; for an `approval` cancel
        this when it has come.
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
        """The same message when it is sent later: `lasts` counts from now."""
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
            async with asyncio.timeout(_KEY_SECONDS):
                return await reader.readline() == self._key
        return False

    def _take(self, message: dict[str, Any]) -> None:
        if "renew" in message:
            self._renew()
        if "leave" in message:
            self._leave()
        if "sign" in message:
            self._sign_wanted.set()
        question = self._questions.get(message.get("id", 0))
        if question is not None and not question.done():
            question.set_result(message["answer"])
