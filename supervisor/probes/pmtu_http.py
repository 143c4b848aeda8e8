"""Path-MTU probe where nobody answers echo requests: an HTTP request that fills one TCP segment of the
wanted size.

TCP_MAXSEG (tcp(7)) sets the size, a header line without meaning fills it, and the kernel sends it with the
don't-fragment bit. A response proves that it got through, unless the kernel has cut it into smaller pieces
meanwhile: TCP_INFO tells. Only the way there is measured. Other protocols than HTTP have nothing that may be
long at will, so a plain tcp:// target is never used for this.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import SplitResult

from supervisor.core.session.pmtu import SMALLEST, Search
from supervisor.probes.targets import Path, head, pinned

HEADERS = {4: 40, 6: 60}  # bytes of IP and TCP without options
_DISCOVER = {4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}  # IP_MTU_DISCOVER, IPV6_MTU_DISCOVER
_ALWAYS = 2  # IP_PMTUDISC_DO
_TIMESTAMPS = 12  # bytes of that option in each packet
_TCP_INFO = struct.Struct("=5xB10xI40xI")  # struct tcp_info: options, snd_mss, pmtu
_RESET = struct.pack(
    "ii", 1, 0
)  # at the end: the server does not wait for the rest of a request that did not get through
_ROUND_TRIPS, _AGAIN = (
    4.0,
    1.5,
)  # an answer is waited for so many round trips, and seconds in which the kernel sends twice again


@dataclass(frozen=True, slots=True)
class Fit:
    """What a connection sends, in bytes: the payload of a full segment, its packet, and what the kernel
    thinks of the path.
    """

    payload: int
    packet: int
    path: int

    @classmethod
    def of(cls, sock: socket.socket, version: int) -> Fit:
        """As it is now."""
        options, payload, path = _TCP_INFO.unpack(
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        )
        return cls(payload, payload + (options & 1) * _TIMESTAMPS + HEADERS[version], path)


async def largest(url: SplitResult, path: Path, device_mtu: int, timeout: float) -> int | None:
    """Bytes of the largest IP packet that gets to an http:// target; None if it does not answer, or takes
    none that the path would not.

    `timeout` is the longest wait for one answer. OSError: the device is gone, or there is no way.
    """
    version = ip_address(url.hostname or "").version
    search, patience = Search.between(SMALLEST[version], device_mtu), timeout
    loop = asyncio.get_running_loop()
    while (size := search.next) is not None:
        started = loop.time()
        passed = await _passes(url, path, size, timeout, patience)
        if passed is None:
            return None
        if search.passed == 0:
            patience = min(timeout, _ROUND_TRIPS * (loop.time() - started) + _AGAIN)
        search = search.after(size, passed)
    return search.found


async def _passes(url: SplitResult, path: Path, size: int, timeout: float, patience: float) -> bool | None:
    """Does a packet of this size get through; None: the target itself takes none so large, so nobody can
    tell.
    """
    host, resource = url.hostname or "", url.path or "/"
    version = ip_address(host).version
    loop = asyncio.get_running_loop()
    with pinned(host, socket.SOCK_STREAM, 0, path) as sock:
        sock.setsockopt(*_DISCOVER[version], _ALWAYS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, size - HEADERS[version])
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        async with asyncio.timeout(timeout):  # a handshake is small: without one nothing is known
            await loop.sock_connect(sock, (host, url.port or 80))
        before = Fit.of(sock, version)
        if before.packet < size:
            return False if before.path < size else None
        try:
            async with asyncio.timeout(patience):
                await loop.sock_sendall(sock, head(host, resource, before.payload))
                answered = await loop.sock_recv(sock, 64)
        except TimeoutError:
            return False
        return Fit.of(sock, version).payload == before.payload if answered else None
