"""Probes a remote gateway outside of all tunnels: a TCP connection to its VPN port, or an ICMP echo request.

A refused connection is an answer (RFC 9293 3.5.2: the host lives). Silence proves something only if the
gateway must answer, or has answered before: many gateways drop echo requests, and UDP ports ignore strangers.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections.abc import Sequence

from supervisor.probes.targets import ProbePath, bound_socket, probe

_OUTSIDE_ALL_TUNNELS = ProbePath(None, 0)
MAX_ADDRESSES = 8  # of a name that are asked


async def answers(
    address: str, port: int | None, timeout: float, name: str | None = None, again: float | None = None
) -> bool:
    """True if the gateway answered within `timeout` seconds. `address` is an IP address; without a `port` it
    gets an echo request. With a `name` the addresses that this has now are asked instead, if there are any.
    `again`: one request is not waited for, another one follows it after so many seconds, and so on.
    """
    addresses: tuple[str, ...] = ()
    if port is not None and name is not None:
        addresses = await _addresses(name, timeout)
    requests = 1 if again is None else math.ceil(timeout / again)
    asking = [
        asyncio.create_task(_answers_after(number * (again or 0.0), addresses or (address,), port, timeout))
        for number in range(requests)
    ]
    try:
        for answered in asyncio.as_completed(asking):
            if await answered:
                return True
    finally:
        for task in asking:
            task.cancel()
    return False


async def _answers_after(pause: float, addresses: Sequence[str], port: int | None, timeout: float) -> bool:
    await asyncio.sleep(pause)
    found = await asyncio.gather(*(_answers(each, port, timeout - pause) for each in addresses))
    return any(found)


async def _answers(address: str, port: int | None, timeout: float) -> bool:
    if port is None:
        target = f"icmp://[{address}]" if ":" in address else f"icmp://{address}"
        return await probe(target, _OUTSIDE_ALL_TUNNELS, timeout) is not None
    return await _accepts(address, port, timeout)


async def _addresses(name: str, timeout: float) -> tuple[str, ...]:
    with contextlib.suppress(OSError):
        async with asyncio.timeout(timeout):
            found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
            return tuple(dict.fromkeys(str(where[0]) for *_, where in found))[:MAX_ADDRESSES]
    return ()


async def _accepts(address: str, port: int, timeout: float) -> bool:
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
