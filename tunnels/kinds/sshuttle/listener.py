"""The local TCP port of a proxy, to which the daemon's rules redirect connections."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable

from tunnels.drivers.cli import Unfit

# connections that wait to be accepted: with sshuttle's own 10 a burst waits for SYN retransmits
BACKLOG = 1024
_IPV6_TRANSPARENT = 75  # linux/in6.h; Python has no name for it


class ProxyListener:
    """Listening sockets, IPv4 and IPv6: bound at once, but open only while connections can be carried.

    They are transparent (IP_TRANSPARENT, needs CAP_NET_ADMIN): the daemon's rules accept redirected
    connections for no other sockets, so a process that takes the port after us gets none. SO_REUSEADDR is set
    only while they listen, when it lets nobody else bind the port. Without it a port could not be opened
    again before its last connections are over; with it anybody could bind the port while it is shut.
    """

    def __init__(self, port: int, shared: bool) -> None:
        """`shared`: other listeners of this user have the same port (SO_REUSEPORT), and the kernel spreads
        new connections over those that are open. Unfit: the port cannot be bound.
        """
        try:
            self.v4 = _bound(socket.AF_INET, "0.0.0.0", port, shared)
            self.v6 = _bound_if_available(port, shared)
        except PermissionError as error:
            text = "cannot mark the listening sockets as transparent: that needs CAP_NET_ADMIN"
            raise Unfit(text) from error
        except OSError as error:
            raise Unfit(f"cannot listen on port {port}: {error.strerror}") from error
        self._lock = threading.Lock()
        self.is_open = False
        self.on_open: Callable[[], None] = lambda: None

    def open(self) -> None:
        """Accept connections (again)."""
        for listener in self._sockets():
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.listen(BACKLOG)
        self.is_open = True
        self.on_open()

    def shut(self) -> None:
        """Accept no more, whichever process opened it. Waiting connections are reset, so that clients try
        again and reach another worker.
        """
        with self._lock:
            self.is_open = False
            for listener in self._sockets():
                # Never shut down twice: the kernel would remember it, and when the socket listens again, new
                # connections would be shut down from the start.
                if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    listener.shutdown(socket.SHUT_RDWR)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)

    def forget(self) -> None:
        """Close the descriptors in this process, which does not use the port."""
        for listener in self._sockets():
            listener.close()

    def _sockets(self) -> tuple[socket.socket, ...]:
        return (self.v4,) if self.v6 is None else (self.v4, self.v6)


def _bound(family: int, address: str, port: int, shared: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setblocking(False)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    else:
        listener.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((address, port))
    return listener


def _bound_if_available(port: int, shared: bool) -> socket.socket | None:
    """None if the kernel runs without IPv6."""
    try:
        return _bound(socket.AF_INET6, "::", port, shared)
    except OSError as error:
        if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            return None
        raise
