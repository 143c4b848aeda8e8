"""Does anybody in the tunnel answer, though no probe target does: what tells a dead destination from a
dead tunnel.

Through a device: an echo request that may make one hop only. The gateway at the far end of the tunnel is the
one to say so (RFC 792, time exceeded), wherever the request was meant for; nobody has to know its address.
Any other ICMP error, or an answer, proves as much. Through a proxy: a service of the far side itself, which
the kind names. Silence proves nothing: a gateway may keep to itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterable
from urllib.parse import urlsplit

from supervisor.probes.targets import ECHO_REPLY, ECHO_REQUEST, Path, pinned, probe

_PROTOCOL = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
# Give errors of ICMP to the socket (ip(7) IP_RECVERR, ipv6(7) IPV6_RECVERR), which the socket module does not
# name; and one hop.
_SETTINGS = {
    4: ((socket.IPPROTO_IP, 11, 1), (socket.IPPROTO_IP, socket.IP_TTL, 1)),
    6: ((socket.IPPROTO_IPV6, 25, 1), (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 1)),
}
_MSG_ERRQUEUE = 0x2000
_EXTENDED_ERROR = struct.Struct(
    "=IBBBBII"
)  # linux/errqueue.h, struct sock_extended_err: its second field is the origin
_FROM_AFAR = (2, 3)  # SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6; 1 is this host itself


async def answers_inside(targets: Iterable[str], path: Path, service: str | None, timeout: float) -> bool:
    """Did anybody within the tunnel answer us within `timeout` seconds. `service`: a target of the far
    side itself, for a proxy.
    """
    if path.device is None:
        return service is not None and await probe(service, path, timeout) is not None
    host = next((host for target in targets if (host := urlsplit(target).hostname)), None)
    if host is None:
        return False
    with contextlib.suppress(OSError):  # silence, or the device is gone
        async with asyncio.timeout(timeout):
            return await _first_hop(host, path)
    return False


async def _first_hop(host: str, path: Path) -> bool:
    loop, version = asyncio.get_running_loop(), 6 if ":" in host else 4
    with pinned(host, socket.SOCK_DGRAM, _PROTOCOL[version], path) as sock:
        for setting in _SETTINGS[version]:
            sock.setsockopt(*setting)
        sock.connect((host, 0))
        await loop.sock_sendall(sock, struct.pack("!BBHHH", ECHO_REQUEST[sock.family], 0, 0, 0, 1))
        while True:
            try:
                reply = await loop.sock_recv(sock, 256)
            except OSError:
                return _came_from_afar(sock)
            if reply and reply[0] == ECHO_REPLY[sock.family]:
                return True


def _came_from_afar(sock: socket.socket) -> bool:
    """Is the error that waits at the socket what somebody else has said. OSError when there is none."""
    _, messages, _, _ = sock.recvmsg(256, 256, _MSG_ERRQUEUE)
    errors = [_EXTENDED_ERROR.unpack_from(data) for *_, data in messages if len(data) >= _EXTENDED_ERROR.size]
    return any(origin in _FROM_AFAR for _, origin, *_ in errors)
