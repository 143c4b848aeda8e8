"""Path MTU probe for targets that do not answer echo requests: an HTTP request that fills one TCP segment of
the wanted size.

TCP_MAXSEG (tcp(7)) sets the size, a meaningless header field pads the request, and the kernel sends it with
the don't-fragment bit. A response proves that it got through, unless the kernel has split it meanwhile, which
TCP_INFO shows. Only the direction to the target is measured. Other protocols have no message that can be
padded, so a tcp:// target is never used for this.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import SplitResult

from supervisor.core.session.pmtu import SMALLEST, Search
from supervisor.probes.targets import RESET, ProbePath, bound_socket, head

HEADER_BYTES = {4: 40, 6: 60}  # of IP and TCP without options
_DISCOVER = {4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}  # IP_MTU_DISCOVER, IPV6_MTU_DISCOVER
_ALWAYS = 2  # IP_PMTUDISC_DO
_TIMESTAMP_BYTES = 12  # of the TCP timestamps option in each packet (RFC 7323)
_TCP_INFO = struct.Struct("=5xB10xI40xI")  # struct tcp_info: options, snd_mss, pmtu
_ROUND_TRIPS = 4.0  # a response is waited for so many times the first round-trip time
_RETRANSMISSION_SECONDS = 1.5  # and longer, in which the kernel retransmits twice


@dataclass(frozen=True, slots=True)
class Fit:
    """Sizes of a connection's full segments, in bytes: payload, IP packet, and the path MTU that the kernel
    assumes.
    """

    payload: int
    packet: int
    path: int

    @classmethod
    def of(cls, sock: socket.socket, version: int) -> Fit:
        """The present sizes, from TCP_INFO."""
        options, payload, path = _TCP_INFO.unpack(
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        )
        return cls(payload, payload + (options & 1) * _TIMESTAMP_BYTES + HEADER_BYTES[version], path)


async def largest(url: SplitResult, path: ProbePath, device_mtu: int, timeout: float) -> int | None:
    """Bytes of the largest IP packet that reaches an http:// target; None: it does not answer, or its own
    limit is smaller than the path's.

    `timeout` is the longest wait for one answer, in seconds. OSError: the interface is gone, or there is no
    route.
    """
    version = ip_address(url.hostname or "").version
    search, wait = Search.between(SMALLEST[version], device_mtu), timeout
    loop = asyncio.get_running_loop()
    while (size := search.next) is not None:
        started = loop.time()
        passed = await _passes(url, path, size, timeout, wait)
        if passed is None:
            return None
        if search.passed == 0:
            wait = min(timeout, _ROUND_TRIPS * (loop.time() - started) + _RETRANSMISSION_SECONDS)
        search = search.after(size, passed)
    return search.found


async def _passes(url: SplitResult, path: ProbePath, size: int, timeout: float, wait: float) -> bool | None:
    """True if a packet of this size gets through; None: the target accepts none so large, so it
    is not known.
    """
    host, resource = url.hostname or "", url.path or "/"
    version = ip_address(host).version
    loop = asyncio.get_running_loop()
    with bound_socket(host, socket.SOCK_STREAM, 0, path) as sock:
        sock.setsockopt(*_DISCOVER[version], _ALWAYS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, size - HEADER_BYTES[version])
        # so that the server does not wait for the rest of a request that was lost
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        async with asyncio.timeout(timeout):  # a handshake is small: without one nothing is known
            await loop.sock_connect(sock, (host, url.port or 80))
        before = Fit.of(sock, version)
        if before.packet < size:
            return False if before.path < size else None
        try:
            async with asyncio.timeout(wait):
                await loop.sock_sendall(sock, head(host, resource, before.payload))
                answered = await loop.sock_recv(sock, 64)
        except TimeoutError:
            return False
        return Fit.of(sock, version).payload == before.payload if answered else None
