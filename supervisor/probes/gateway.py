"""Probes a remote gateway outside of all tunnels: a TCP connection to its VPN port, or an ICMP echo request.

A refused connection is an answer (RFC 9293 3.5.2: the host lives). Silence proves something only if the
gateway must answer, or has answered before: many gateways drop echo requests, and UDP ports ignore strangers.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

from supervisor.probes.targets import ProbePath, bound_socket, probe

_OUTSIDE_ALL_TUNNELS = ProbePath(None, 0)


async def answers(address: str, port: int | None, timeout: float) -> bool:
    """True if the gateway answered within `timeout` seconds. `address` is an IP address; without a `port` it
    gets an echo request.
    """
    if port is None:
        target = f"icmp://[{address}]" if ":" in address else f"icmp://{address}"
        return await probe(target, _OUTSIDE_ALL_TUNNELS, timeout) is not None
    try:
        async with asyncio.timeout(timeout):
            with (
                bound_socket(address, socket.SOCK_STREAM, 0, _OUTSIDE_ALL_TUNNELS) as sock,
                contextlib.suppress(ConnectionRefusedError),
            ):
                await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except OSError:
        return False
    return True
