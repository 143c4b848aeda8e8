"""Does a far side's gateway answer, asked past all tunnels: a connection to the port at which it takes
those of everybody, else an echo.

A refused connection is an answer. Silence means something only where somebody must answer, or has answered
before: many gateways drop echo requests, and a port of UDP tells strangers nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

from supervisor.probes.targets import Path, pinned, probe

_PAST_ALL = Path(None, 0)


async def answers(address: str, port: int | None, timeout: float) -> bool:
    """Did the gateway answer within `timeout` seconds. `address` is no name; without a `port` it gets an
    echo request.
    """
    if port is None:
        return (
            await probe(f"icmp://[{address}]" if ":" in address else f"icmp://{address}", _PAST_ALL, timeout)
            is not None
        )
    try:
        async with asyncio.timeout(timeout):
            with (
                pinned(address, socket.SOCK_STREAM, 0, _PAST_ALL) as sock,
                contextlib.suppress(ConnectionRefusedError),
            ):
                await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except OSError:
        return False
    return True
