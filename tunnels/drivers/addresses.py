"""The addresses of a remote gateway's name, and which of them is tried, for clients that try only the first
one. The daemon counts the attempts that reached nobody (`Placement.remote`).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

RESOLVE_SECONDS = 8.0  # for a name


async def resolved(name: str, family: int = socket.AF_UNSPEC) -> list[str]:
    """All addresses of a name or address, in the order that this host prefers. OSError, of which TimeoutError
    is one: it cannot be resolved.
    """
    async with asyncio.timeout(RESOLVE_SECONDS):
        found = await asyncio.get_running_loop().getaddrinfo(
            name, None, family=family, type=socket.SOCK_DGRAM
        )
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def resolved_or_named(name: str, family: int = socket.AF_UNSPEC) -> list[str]:
    """The same, or the name alone if it cannot be resolved: then the client says why."""
    try:
        return await resolved(name, family)
    except OSError:
        return [name]


def in_turn(addresses: Sequence[str], attempt: int) -> str:
    """The address for the attempt with this number (0 is the first)."""
    return addresses[attempt % len(addresses)]
