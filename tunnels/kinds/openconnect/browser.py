"""Logins by browser (SAML) of AnyConnect servers, with the person's browser on another machine.

openconnect prints the address to open, through a "browser" that only prints it. After the login the browser
is sent to http://localhost:29786/api/sso/..., where openconnect listens on this host. On the person's machine
nobody listens there, so the browser shows an error, and the address that it shows is the answer to our
question. The token in it is encrypted for this openconnect alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import re

PORT = 29786  # of openconnect (and of Cisco's own client)
ANSWER_SECONDS = 10.0  # for openconnect to take the address
_ADDRESS = re.compile(r"https://[\x21-\x7e]{1,4000}")
_END = re.compile(
    rf"(?:http://)?(?:(?:localhost|127\.0\.0\.1|\[::1\]):{PORT})?(/api/sso/[\x21-\x7e]{{1,3900}})"
)


def is_address(line: str) -> bool:
    """The line is nothing but the address of a web page."""
    return _ADDRESS.fullmatch(line.strip()) is not None


def question(address: str, *, again: bool = False) -> str:
    """What a person is asked to do."""
    text = (
        f"log in with a browser at {address} and answer with the address at which it ends, "
        f"http://localhost:{PORT}/api/sso/... (the browser shows an error there)"
    )
    return f"that was not the address at which the browser ended; {text}" if again else text


def path_of(answer: str) -> str | None:
    """The path in the address at which a browser ended; None: it is no such address."""
    found = _END.fullmatch(answer.strip())
    return None if found is None else found[1]


async def deliver(path: str) -> bool:
    """Ask openconnect for this path, as the browser would; returns whether it took it."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection("::1", PORT)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost:{PORT}\r\n\r\n".encode())
                status = await reader.readline()
            finally:
                writer.close()
            return status.startswith((b"HTTP/1.1 200", b"HTTP/1.1 302"))
    return False
