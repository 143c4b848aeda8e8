"""Path MTU probe: echo requests with the don't-fragment bit, in the sizes that `core.session.pmtu` asks for,
through one lane (packetization layer path MTU discovery, compare RFC 8899).

A path may drop packets that are too large without an ICMP error, so a size without a reply in several tries
does not pass. An ICMP error only makes a try end sooner.
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
from supervisor.probes.targets import ECHO_REPLY, ECHO_REQUEST, ProbePath, bound_socket

MAX_TRIES = 3  # of one size: a single loss proves nothing
MAX_TARGET_SECONDS = 60.0  # for one target
_ROUND_TRIPS = 4.0  # a try waits for so many times the first round-trip time
_SLACK_SECONDS = 0.1  # more, as large packets take longer
_IP_HEADER_BYTES = {4: 20, 6: 40}
_PROTOCOL = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
# ip(7) IP_MTU_DISCOVER, ipv6(7) IPV6_MTU_DISCOVER; the socket module lacks these names.
_DISCOVER = {4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}
_PROBE = 3  # IP_PMTUDISC_PROBE: set the don't-fragment bit, ignore the kernel's path MTU
_SIOCGIFMTU = 0x8921


async def path_mtu(targets: Iterable[str], path: ProbePath, timeout: float) -> int | None:
    """Bytes of the largest IP packet that the first target that answers echo requests sends back, or that
    reaches the first HTTP target; None: none answers.

    Takes at most `MAX_TARGET_SECONDS` for each target; `timeout` is the longest wait for one reply in
    seconds. `path` must have an interface.
    """
    targets = tuple(targets)
    for host in dict.fromkeys(urlsplit(target).hostname or "" for target in sorted(targets, key=_icmp_first)):
        try:
            async with asyncio.timeout(MAX_TARGET_SECONDS):
                found = await _largest(host, path, timeout)
        except OSError:  # the interface is gone, there is no route, or time is up
            continue
        if found is not None:
            return found
    return await _by_http([url for url in map(urlsplit, targets) if url.scheme == "http"], path, timeout)


async def _by_http(urls: Iterable[SplitResult], path: ProbePath, timeout: float) -> int | None:
    for url in urls:
        with contextlib.suppress(OSError):
            async with asyncio.timeout(MAX_TARGET_SECONDS):
                if (found := await pmtu_http.largest(url, path, _mtu_of(path), timeout)) is not None:
                    return found
    return None


def _icmp_first(target: str) -> bool:
    return not target.startswith("icmp:")


async def _largest(host: str, path: ProbePath, timeout: float) -> int | None:
    version = ip_address(host).version
    with bound_socket(host, socket.SOCK_DGRAM, _PROTOCOL[version], path) as sock:
        sock.setsockopt(*_DISCOVER[version], _PROBE)
        sock.connect((host, 0))
        search = Search.between(SMALLEST[version], _mtu_of(path))
        try_seconds, sequence = timeout / MAX_TRIES, 0
        while (size := search.next) is not None:
            sequence += 1
            took = await _echo(sock, _request(sock, sequence, size - _IP_HEADER_BYTES[version]), try_seconds)
            if sequence == 1 and took is not None:
                try_seconds = min(timeout, _ROUND_TRIPS * took + _SLACK_SECONDS)
            search = search.after(size, took is not None)
        return search.found


def _request(sock: socket.socket, sequence: int, length: int) -> bytes:
    """An echo request of `length` bytes; the kernel fills in identifier and checksum."""
    return struct.pack("!BBHHH", ECHO_REQUEST[sock.family], 0, 0, 0, sequence).ljust(length, b"\0")


async def _echo(sock: socket.socket, request: bytes, try_seconds: float) -> float | None:
    """Seconds until the reply, over all tries; None: there was none."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    for _ in range(MAX_TRIES):
        try:
            async with asyncio.timeout(try_seconds):
                await loop.sock_sendall(sock, request)
                await _reply(sock, request)
        except OSError:  # a timeout, or an ICMP error about this packet or an earlier one
            continue
        return loop.time() - started
    return None


async def _reply(sock: socket.socket, request: bytes) -> None:
    """Wait for the reply to this request, and ignore late ones to other sizes."""
    while True:
        reply = await asyncio.get_running_loop().sock_recv(sock, 65535)
        if len(reply) == len(request) and reply[0] == ECHO_REPLY[sock.family] and reply[6:8] == request[6:8]:
            return


def _mtu_of(path: ProbePath) -> int:
    """The interface's MTU in bytes (netdevice(7)). OSError: it is gone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, _SIOCGIFMTU, struct.pack("16sI20x", (path.device or "").encode(), 0))
    return int(struct.unpack("16sI20x", answer)[1])
