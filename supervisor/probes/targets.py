"""One probe of one target (ICMP echo, TCP or HTTP): the round-trip time, or None.

Sockets are bound to the lane (socket(7): SO_MARK, SO_BINDTODEVICE); none needs CAP_NET_RAW.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

ECHO_REQUEST = {socket.AF_INET: 8, socket.AF_INET6: 128}
ECHO_REPLY = {socket.AF_INET: 0, socket.AF_INET6: 129}
RESET = struct.pack("ii", 1, 0)  # of SO_LINGER: closing resets the connection at once
_BANNER_SHARE = 0.25  # of the timeout, to wait for a server that speaks first (SSH, SMTP)


@dataclass(frozen=True, slots=True)
class ProbePath:
    """The lane that a probe's packets must take (lane = fwmark = ct mark = routing table)."""

    device: str | None  # interface; None: the lane's proxy
    mark: int  # the lane; 0: none


async def probe(target: str, path: ProbePath, timeout: float) -> float | None:
    """Seconds until the target answered; None: it did not within `timeout` seconds, or there is no path."""
    url = urlsplit(target)
    host, port = url.hostname or "", url.port
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        async with asyncio.timeout(timeout):
            match url.scheme:
                case "icmp":
                    await _icmp(host, path)
                case "tcp":
                    started += await _tcp(host, port or 0, path, timeout)
                case "http":
                    await _http(host, port or 80, url.path or "/", path)
    except (TimeoutError, OSError):
        return None
    return loop.time() - started


@contextlib.contextmanager
def bound_socket(
    host: str, kind: socket.SocketKind, protocol: int, path: ProbePath
) -> Iterator[socket.socket]:
    """A non-blocking socket that can only use this path. OSError (ENODEV): the interface does not exist.
    A TCP connection that an exception leaves is reset, so that the kernel repeats nothing of it later, when
    the path may be another (socket(7): SO_LINGER).
    """
    family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
    with socket.socket(family, kind, protocol) as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, path.mark)
        if path.device is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, path.device.encode() + b"\0")
        given_up = kind == socket.SOCK_STREAM
        try:
            yield sock
            given_up = False
        finally:
            if given_up:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


async def _icmp(host: str, path: ProbePath) -> None:
    """Echo through a datagram ICMP socket (icmp(7)): the kernel fills in identifier and checksum. Needs the
    sysctl net.ipv4.ping_group_range.
    """
    loop = asyncio.get_running_loop()
    protocol = socket.IPPROTO_ICMPV6 if ip_address(host).version == 6 else socket.IPPROTO_ICMP
    with bound_socket(host, socket.SOCK_DGRAM, protocol, path) as sock:
        sock.connect((host, 0))
        await loop.sock_sendall(sock, struct.pack("!BBHHH", ECHO_REQUEST[sock.family], 0, 0, 0, 1))
        while True:
            reply = await loop.sock_recv(sock, 256)
            if reply and reply[0] == ECHO_REPLY[sock.family]:
                return


async def _tcp(host: str, port: int, path: ProbePath, timeout: float) -> float:
    """Through an interface a finished handshake or a refusal proves the path; through a proxy, which
    completes handshakes itself, only received bytes do. Returns the seconds in which nothing was asked, which
    are no latency.
    """
    loop = asyncio.get_running_loop()
    with bound_socket(host, socket.SOCK_STREAM, 0, path) as sock:
        if path.device is not None:
            with contextlib.suppress(ConnectionRefusedError):
                await loop.sock_connect(sock, (host, port))
            return 0.0
        await loop.sock_connect(sock, (host, port))
        return await _provoke_answer(sock, host, timeout * _BANNER_SHARE)


async def _provoke_answer(sock: socket.socket, host: str, banner_seconds: float) -> float:
    """Wait for the banner of a server that speaks first; then send an HTTP request, to which servers of other
    text protocols answer by an error. Returns the seconds that it waited for a banner in vain.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        async with asyncio.timeout(banner_seconds):
            await _receive(sock)
            return 0.0
    except TimeoutError:
        asked = loop.time()
        await loop.sock_sendall(sock, head(host, "/"))
        await _receive(sock)
        return asked - started


async def _http(host: str, port: int, resource: str, path: ProbePath) -> None:
    """Any HTTP response proves the path, whatever its status."""
    loop = asyncio.get_running_loop()
    with bound_socket(host, socket.SOCK_STREAM, 0, path) as sock:
        await loop.sock_connect(sock, (host, port))
        await loop.sock_sendall(sock, head(host, resource))
        await _receive(sock)


async def _receive(sock: socket.socket) -> None:
    if not await asyncio.get_running_loop().sock_recv(sock, 64):
        raise ConnectionResetError("closed without an answer")


def head(host: str, resource: str, length: int = 0) -> bytes:
    """An HTTP HEAD request, padded to `length` bytes."""
    name = f"[{host}]" if ":" in host else host
    text = f"HEAD {resource} HTTP/1.0\r\nHost: {name}\r\nUser-Agent: facilitator-probe\r\n".encode(
        "ascii", "replace"
    )
    padding = max(0, length - len(text) - len(b"X-Filling: \r\n\r\n"))
    return text + (b"X-Filling: " + b"x" * padding + b"\r\n" if padding else b"") + b"\r\n"
