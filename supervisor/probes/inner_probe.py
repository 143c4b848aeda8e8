"""Probes the tunnel itself when no probe target answers, to tell a dead destination from a dead tunnel.

Through an interface: an echo request with TTL 1. The remote gateway answers it by "time exceeded" (RFC 792,
RFC 4443), whatever the destination; its address need not be known. Any other ICMP error, or a reply, proves
as much. Through a proxy: a service of the remote gateway itself, which the kind names. Silence proves
nothing: gateways may drop such requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterable
from urllib.parse import urlsplit

from supervisor.probes.targets import ECHO_REPLY, ECHO_REQUEST, ProbePath, bound_socket, probe

_PROTOCOL = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
# Queue ICMP errors at the socket (ip(7) IP_RECVERR, ipv6(7) IPV6_RECVERR: the socket module lacks the names),
# and TTL 1.
_SETTINGS = {
    4: ((socket.IPPROTO_IP, 11, 1), (socket.IPPROTO_IP, socket.IP_TTL, 1)),
    6: ((socket.IPPROTO_IPV6, 25, 1), (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 1)),
}
_MSG_ERRQUEUE = 0x2000
_EXTENDED_ERROR = struct.Struct(
    "=IBBBBII"
)  # linux/errqueue.h, struct sock_extended_err: its second field is the origin
_REMOTE_ORIGINS = (2, 3)  # SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6; 1 is this host itself


async def answers_inside(
    targets: Iterable[str], path: ProbePath, service: str | None, timeout: float
) -> bool:
    """True if anything inside the tunnel answered within `timeout` seconds. `service`: a target on the remote
    gateway, for a proxy.
    """
    if path.device is None:
        return service is not None and await probe(service, path, timeout) is not None
    host = next((host for target in targets if (host := urlsplit(target).hostname)), None)
    if host is None:
        return False
    with contextlib.suppress(OSError):  # a timeout, or the interface is gone
        async with asyncio.timeout(timeout):
            return await _first_hop(host, path)
    return False


async def _first_hop(host: str, path: ProbePath) -> bool:
    loop, version = asyncio.get_running_loop(), 6 if ":" in host else 4
    with bound_socket(host, socket.SOCK_DGRAM, _PROTOCOL[version], path) as sock:
        for setting in _SETTINGS[version]:
            sock.setsockopt(*setting)
        sock.connect((host, 0))
        await loop.sock_sendall(sock, struct.pack("!BBHHH", ECHO_REQUEST[sock.family], 0, 0, 0, 1))
        while True:
            try:
                reply = await loop.sock_recv(sock, 256)
            except OSError:
                return _is_remote_error(sock)
            if reply and reply[0] == ECHO_REPLY[sock.family]:
                return True


def _is_remote_error(sock: socket.socket) -> bool:
    """True if the error queued at the socket came from another host. OSError: there is none."""
    _, messages, _, _ = sock.recvmsg(256, 256, _MSG_ERRQUEUE)
    errors = [_EXTENDED_ERROR.unpack_from(data) for *_, data in messages if len(data) >= _EXTENDED_ERROR.size]
    return any(origin in _REMOTE_ORIGINS for _, origin, *_ in errors)
