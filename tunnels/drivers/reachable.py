"""Finds an address of a remote gateway that accepts TCP connections, for clients that try only the first
address of a name, or try one after the other for longer than a start may take.
"""

from __future__ import annotations

import asyncio
import socket

STAGGER_SECONDS = 0.25  # from one address to the next (RFC 8305, Happy Eyeballs)
AGAIN_SECONDS = 1.0  # until all are asked once more: the kernel's pauses between SYNs double
REACH_SECONDS = 8.0  # for all of them: eight addresses, the last of which has five seconds


async def reachable(
    host: str, port: int, seconds: float = REACH_SECONDS, family: int = socket.AF_UNSPEC
) -> str | None:
    """The first address of this name or address that accepts a connection; None: none does in time, and the
    client itself has to say why. A path that comes back meanwhile is seen within a second.
    """
    asking: list[asyncio.Task[str]] = []
    try:
        async with asyncio.timeout(seconds):
            while True:
                asking.append(asyncio.create_task(_accepting(host, port, family)))
                over, _ = await asyncio.wait(
                    asking, timeout=AGAIN_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                for task in over:
                    return task.result()
    except (OSError, TimeoutError):
        return None
    finally:
        for task in asking:
            task.cancel()


async def _accepting(host: str, port: int, family: int) -> str:
    _, writer = await asyncio.open_connection(host, port, family=family, happy_eyeballs_delay=STAGGER_SECONDS)
    try:
        return str(writer.get_extra_info("peername")[0])
    finally:
        writer.close()
