"""Asks OpenVPN servers who is connected: by their status files, or by their management sockets.

It only reads, so it ends no session. What the servers say is as old as their last word: the file's interval,
or that of the configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Mapping, Sequence

from supervisor.core.identity.book import BookReading
from supervisor.core.identity.openvpn_status import read_status
from supervisor.core.identity.staff_routes import StaffRoute
from supervisor.identity.source import Accepted, IdentityAway

_ANSWER_SECONDS = 5.0
_MAX_BYTES = 16 << 20
_MAX_AGE_SECONDS = 60.0  # of a status file: an older one is that of a server that has ended


class OpenVpnServers:
    """One or more servers; all of them must answer."""

    relied = 0.0
    routes: tuple[StaffRoute, ...] = ()

    def __init__(
        self, servers: Sequence[str], groups: Mapping[str, Sequence[str]], interval: float, accepted: Accepted
    ) -> None:
        """`servers`: /PATH of a status file, unix:/PATH or tcp:HOST:PORT of a management socket."""
        self._servers, self._groups, self._interval, self._accepted = servers, groups, interval, accepted

    async def read(self, after: int, wait: float) -> BookReading:
        """See `IdentitySource`."""
        await asyncio.sleep(min(wait, self._interval))
        readings = await asyncio.gather(*map(self._read, self._servers))
        holdings = tuple(each for reading in readings for each in reading.holdings)
        moment, skipped = min(each.time for each in readings), sum(each.skipped for each in readings)
        return BookReading(0, True, True, holdings, moment, skipped)

    async def close(self) -> None:
        """Nothing stays open."""

    async def _read(self, server: str) -> BookReading:
        try:
            if server.startswith("/"):
                text = await asyncio.to_thread(_file, server)
            else:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    text = await _asked(server)
            reading = read_status(text, server.rpartition("/")[2], self._groups, self._accepted)
        except TimeoutError:
            hint = "is another program connected to it?"
            raise IdentityAway(f"OpenVPN at {server} does not answer: {hint}") from None
        except (OSError, ValueError, EOFError) as error:
            raise IdentityAway(f"OpenVPN at {server}: {error!s:.200}") from error
        age = time.time() - reading.time
        if age > _MAX_AGE_SECONDS:
            raise IdentityAway(f"OpenVPN at {server}: its status is {age:.0f} s old; does the server run?")
        return reading


def _file(path: str) -> str:
    """The text of a regular file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError("it is too large")
    return data.decode("utf-8", "replace")


async def _asked(server: str) -> str:
    """What the management command `status 3` prints."""
    kind, _, place = server.partition(":")
    if kind == "unix":
        reader, writer = await asyncio.open_unix_connection(place, limit=1 << 20)
    else:
        host, _, port = place.rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), limit=1 << 20)
    try:
        greeting = await reader.readuntil(b":")
        if not greeting.startswith(b">"):
            raise ValueError(
                "its management socket asks for a password; use one without, in a directory of mode 0700"
            )
        writer.write(b"status 3\n")
        return await _status(reader)
    finally:
        writer.write(b"quit\n")
        with contextlib.suppress(OSError, TimeoutError):
            await writer.drain()
        writer.close()


async def _status(reader: asyncio.StreamReader) -> str:
    """The lines up to END, without notifications in between."""
    lines: list[str] = []
    size = 0
    await reader.readline()  # the rest of the greeting
    while not lines or lines[-1] != "END":
        line = await reader.readline()
        size += len(line)
        if not line or size > _MAX_BYTES:
            raise ValueError("its answer is not whole" if not line else "its answer is too large")
        if not line.startswith(b">"):
            lines.append(line.decode("utf-8", "replace").rstrip("\r\n"))
    return "\n".join(lines)
