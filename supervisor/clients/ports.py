"""Local ports for clients that listen (Carrier.PROXY)."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable

FIRST_PORT = 17300
LAST_PORT = 18299
REUSE_SECONDS = 60.0  # late packets and connections of an earlier session must not reach a new one


class PortPicker:
    """Picks ports of the reserved range in turn, so that a port is used again as late as possible."""

    def __init__(
        self, first: int = FIRST_PORT, last: int = LAST_PORT, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ports = range(first, last + 1)
        self._clock = clock
        self._picked: dict[int, float] = {}
        self._next = 0

    def pick(self) -> int:
        """A port on which nobody listens and that was not picked in the last minute. OSError:
        there is none.
        """
        now = self._clock()
        for step in range(len(self._ports)):
            port = self._ports[(self._next + step) % len(self._ports)]
            if now - self._picked.get(port, -REUSE_SECONDS) >= REUSE_SECONDS and _free(port):
                self._next = (self._next + step + 1) % len(self._ports)
                self._picked[port] = now
                return port
        raise OSError(f"no free port between {self._ports[0]} and {self._ports[-1]}")


def _free(port: int) -> bool:
    """Nobody uses it, neither for IPv4 nor for IPv6: clients listen on both."""
    everywhere = "0.0.0.0"  # noqa: S104 - nothing listens
    return _can_bind(socket.AF_INET, everywhere, port) and _can_bind(socket.AF_INET6, "::", port)


def _can_bind(family: socket.AddressFamily, address: str, port: int) -> bool:
    """True also if the kernel does not have this address family."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((address, port))
    except OSError as error:
        return error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
    return True
