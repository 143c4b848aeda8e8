"""Path-MTU probe: echo requests that may not be fragmented, in the sizes that `core.session.pmtu` asks
for, through one lane.

A path may drop what is too large without a word (a filter that eats ICMP), so silence is the answer here: a
size that got no reply in several tries does not pass. An ICMP error only makes a try end sooner.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from supervisor.core.session.pmtu import SMALLEST, Search
from supervisor.probes import pmtu_http
from supervisor.probes.targets import ECHO_REPLY, ECHO_REQUEST, Path, pinned

TRIES = 3  # of one size: a lost packet is no verdict
LIMIT = 60.0  # seconds for one target
_ROUND_TRIPS = 4.0  # a try waits for so many of the first round trip
_SLACK = 0.1  # seconds more, as large packets take longer
_HEADER = {4: 20, 6: 40}
_PROTOCOL = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
# Set the don't-fragment bit and ignore what the kernel believes of the path: ip(7), ipv6(7); the socket
# module lacks these names.
_DISCOVER = {4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}
_PROBE = 3
_SIOCGIFMTU = 0x8921


async def path_mtu(targets: Iterable[str], path: Path, timeout: float) -> int | None:
    """Bytes of the largest IP packet that comes back from the first target that answers echo requests;
    else that gets to one of HTTP.

    None if neither answers. Takes at most LIMIT for each target; `timeout` is the longest wait for one reply.
    `path` must have a device.
    """
    targets = tuple(targets)
    for host in dict.fromkeys(urlsplit(target).hostname or "" for target in sorted(targets, key=_icmp_first)):
        try:
            async with asyncio.timeout(LIMIT):
                found = await _largest(host, path, timeout)
        except OSError:  # the device is gone, or no route, or time is up
            continue
        if found is not None:
            return found
    return await _by_http([url for url in map(urlsplit, targets) if url.scheme == "http"], path, timeout)


async def _by_http(urls: Iterable[SplitResult], path: Path, timeout: float) -> int | None:
    for url in urls:
        with contextlib.suppress(OSError):
            async with asyncio.timeout(LIMIT):
                if (found := await pmtu_http.largest(url, path, _mtu_of(path), timeout)) is not None:
                    return found
    return None


def _icmp_first(target: str) -> bool:
    return not target.startswith("icmp:")


async def _largest(host: str, path: Path, timeout: float) -> int | None:
    version = ip_address(host).version
    with pinned(host, socket.SOCK_DGRAM, _PROTOCOL[version], path) as sock:
        sock.setsockopt(*_DISCOVER[version], _PROBE)
        sock.connect((host, 0))
        search = Search.between(SMALLEST[version], _mtu_of(path))
        patience, sequence = timeout / TRIES, 0
        while (size := search.next) is not None:
            sequence += 1
            took = await _echo(sock, _request(sock, sequence, size - _HEADER[version]), patience)
            if sequence == 1 and took is not None:
                patience = min(timeout, _ROUND_TRIPS * took + _SLACK)
            search = search.after(size, took is not None)
        return search.found


def _request(sock: socket.socket, sequence: int, length: int) -> bytes:
    """An echo request of so many bytes; the kernel fills identifier and checksum."""
    return struct.pack("!BBHHH", ECHO_REQUEST[sock.family], 0, 0, 0, sequence).ljust(length, b"\0")


async def _echo(sock: socket.socket, request: bytes, patience: float) -> float | None:
    """Seconds until the reply, over all tries; None when none came."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    for _ in range(TRIES):
        try:
            async with asyncio.timeout(patience):
                await loop.sock_sendall(sock, request)
                await _reply(sock, request)
        except OSError:  # silence, or what the path says about this packet or an earlier one
            continue
        return loop.time() - started
    return None


async def _reply(sock: socket.socket, request: bytes) -> None:
    """Return when the reply to this request came; later ones to other sizes pass by."""
    while True:
        reply = await asyncio.get_running_loop().sock_recv(sock, 65535)
        if len(reply) == len(request) and reply[0] == ECHO_REPLY[sock.family] and reply[6:8] == request[6:8]:
            return


def _mtu_of(path: Path) -> int:
    """The device's own limit, in bytes. OSError when it is gone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, _SIOCGIFMTU, struct.pack("16sI20x", (path.device or "").encode(), 0))
    return int(struct.unpack("16sI20x", answer)[1])
