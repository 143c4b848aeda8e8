"""Finds an address of a remote gateway that accepts TCP connections, for clients that try only the first
address of a name, or try one after the other for longer than a start may take.
"""

from __future__ import annotations

import asyncio
import socket

STAGGER_SECONDS = 0.25  # from one address to the next (RFC 8305, Happy Eyeballs)
REACH_SECONDS = 8.0  # for all of them: eight addresses, the last of which has five seconds


async def reachable(
    host: str, port: int, seconds: float = REACH_SECONDS, family: int = socket.AF_UNSPEC
) -> str | None:
    """The first address of this name or address that accepts a connection; None: none does in time, and the
    client itself has to say why.
    """
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(
                host, port, family=family, happy_eyeballs_delay=STAGGER_SECONDS
            )
    except (OSError, TimeoutError):
        return None
    try:
        return str(writer.get_extra_info("peername")[0])
    finally:
        writer.close()
