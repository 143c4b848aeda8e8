"""One probe of one target: seconds until an answer that proves the path, or None.

Sockets are pinned to the lane (SO_MARK, SO_BINDTODEVICE); none needs CAP_NET_RAW.
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
_BANNER_SHARE = 0.25  # of the time limit is spent waiting for a server that speaks first


@dataclass(frozen=True, slots=True)
class Path:
    """Where a probe's packets must go: out of `device`, or with `mark` into the proxy that carries it."""

    device: str | None
    mark: int


async def probe(target: str, path: Path, timeout: float) -> float | None:
    """Seconds until the target answered, or None when it did not within `timeout` seconds or the path is
    closed.
    """
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
                    await _tcp(host, port or 0, path, timeout)
                case "http":
                    await _http(host, port or 80, url.path or "/", path)
    except (TimeoutError, OSError):
        return None
    return loop.time() - started


@contextlib.contextmanager
def pinned(host: str, kind: socket.SocketKind, protocol: int, path: Path) -> Iterator[socket.socket]:
    """A non-blocking socket that can only use the path. A device that is gone is an OSError at once
    (ENODEV).
    """
    family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
    with socket.socket(family, kind, protocol) as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, path.mark)
        if path.device is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, path.device.encode() + b"\0")
        yield sock


async def _icmp(host: str, path: Path) -> None:
    """Echo over a datagram ICMP socket (icmp(7): the kernel fills identifier and checksum; needs
    net.ipv4.ping_group_range).
    """
    loop = asyncio.get_running_loop()
    protocol = socket.IPPROTO_ICMPV6 if ip_address(host).version == 6 else socket.IPPROTO_ICMP
    with pinned(host, socket.SOCK_DGRAM, protocol, path) as sock:
        sock.connect((host, 0))
        await loop.sock_sendall(sock, struct.pack("!BBHHH", ECHO_REQUEST[sock.family], 0, 0, 0, 1))
        while True:
            reply = await loop.sock_recv(sock, 256)
            if reply and reply[0] == ECHO_REPLY[sock.family]:
                return


async def _tcp(host: str, port: int, path: Path, timeout: float) -> None:
    """Through a device a finished handshake or a refusal proves the path; through a proxy only received
    bytes do.
    """
    loop = asyncio.get_running_loop()
    with pinned(host, socket.SOCK_STREAM, 0, path) as sock:
        if path.device is not None:
            with contextlib.suppress(ConnectionRefusedError):
                await loop.sock_connect(sock, (host, port))
        else:
            await loop.sock_connect(sock, (host, port))
            await _elicit(sock, host, timeout * _BANNER_SHARE)


async def _elicit(sock: socket.socket, host: str, patience: float) -> None:
    """Wait for a server that speaks first; then ask one that does not, in words to which every text
    protocol has an answer.
    """
    try:
        async with asyncio.timeout(patience):
            await _answered(sock)
    except TimeoutError:
        await asyncio.get_running_loop().sock_sendall(sock, head(host, "/"))
        await _answered(sock)


async def _http(host: str, port: int, resource: str, path: Path) -> None:
    """Any HTTP response proves the path, whatever its status."""
    loop = asyncio.get_running_loop()
    with pinned(host, socket.SOCK_STREAM, 0, path) as sock:
        await loop.sock_connect(sock, (host, port))
        await loop.sock_sendall(sock, head(host, resource))
        await _answered(sock)


async def _answered(sock: socket.socket) -> None:
    if not await asyncio.get_running_loop().sock_recv(sock, 64):
        raise ConnectionResetError("closed without an answer")


def head(host: str, resource: str, length: int = 0) -> bytes:
    """A request for a resource's header, filled up to so many bytes."""
    name = f"[{host}]" if ":" in host else host
    text = f"HEAD {resource} HTTP/1.0\r\nHost: {name}\r\nUser-Agent: facilitator-probe\r\n".encode(
        "ascii", "replace"
    )
    filling = max(0, length - len(text) - len(b"X-Filling: \r\n\r\n"))
    return text + (b"X-Filling: " + b"x" * filling + b"\r\n" if filling else b"") + b"\r\n"
