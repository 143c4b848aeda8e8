"""The openconnect process: its output, its input and its end."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shlex
import signal
from asyncio import StreamReader
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from urllib.parse import urlsplit

PROMPT_SECONDS = 0.05  # text without an end of line for so long is a prompt
HANG_UP_SECONDS = 1.0  # in which a server that has locked us out closes a connection
TICKET_PARTS = ("COOKIE", "HOST", "CONNECT_URL", "FINGERPRINT", "RESOLVE")  # variables that a login prints
_PR_SET_PDEATHSIG = 1


def in_own_group() -> None:
    """In the child, before exec: a process group of its own, and SIGKILL when the driver ends."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def kill(client: Process) -> None:
    """SIGKILL, if it still runs."""
    if client.returncode is None:
        client.kill()


def write_line(client: Process, line: str, *, close: bool = True) -> None:
    """Write one line to its standard input, and close that."""
    assert client.stdin is not None
    with contextlib.suppress(ConnectionError):
        client.stdin.write(line.replace("\n", " ").encode() + b"\n")
        if close:
            client.stdin.close()


async def lines_and_prompts(stream: StreamReader) -> AsyncIterator[tuple[str, bool]]:
    """Yields (line, True) for each line, and (text, False) for text without an end of line that stays like
    that for PROMPT_SECONDS: a prompt.
    """
    pending = ""
    while True:
        try:
            data = await asyncio.wait_for(stream.read(1 << 14), PROMPT_SECONDS if pending else None)
        except TimeoutError:
            yield pending, False
            pending = ""
            continue
        *whole, pending = (pending + data.decode(errors="replace").replace("\0", "")).split("\n")
        for line in whole:
            if line.strip():
                yield line.rstrip("\r"), True
        if not data:
            if pending:
                yield pending, True
            return


async def read_ticket(stream: StreamReader, other: Callable[[str], None]) -> dict[str, str]:
    """Read the shell variables that `openconnect --authenticate` prints. They hold the cookie: never log
    them. `other` gets the lines that are none.
    """
    ticket = {}
    while data := await stream.readline():
        line = data.decode(errors="replace").rstrip("\r\n")
        name, separator, value = line.partition("=")
        if separator and name in TICKET_PARTS:
            with contextlib.suppress(ValueError):
                ticket[name] = "".join(shlex.split(value))
        else:
            other(line)
    return ticket


def host_and_port(url: str) -> tuple[str, int]:
    """Of HOST[:PORT], with or without https:// before it and a path behind."""
    found = urlsplit(url if "//" in url else f"//{url}")
    try:
        return found.hostname or "", found.port or 443
    except ValueError:
        return found.hostname or "", 443


def is_address(host: str) -> bool:
    """It is no name."""
    try:
        return bool(ip_address(host))
    except ValueError:
        return False


async def hangs_up(host: str, port: int) -> bool:
    """Does the server close the connection before we send a byte? A TLS server waits for the ClientHello, so
    one that closes has locked us out.
    """
    try:
        async with asyncio.timeout(HANG_UP_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                return await reader.read(1) == b""
            finally:
                writer.close()
    except ConnectionResetError:
        return True
    except (OSError, TimeoutError):
        return False
