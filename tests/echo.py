"""A TCP server that gives back what it gets, in a namespace of a test: for connections that stay open."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator

from tests.netns import Namespace


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.request.recv(4096):
                self.request.sendall(data)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = allow_reuse_address = True
    address_family = socket.AF_INET6


@contextlib.contextmanager
def serving(namespace: Namespace, port: int) -> Iterator[None]:
    """It serves on all addresses of the namespace."""
    with namespace.entered():
        server = _Server(("::", port), _Echo)
    with server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield
        server.shutdown()


def connection(namespace: Namespace, address: str, port: int) -> socket.socket:
    """A connection from this namespace that has carried something."""
    with namespace.entered():
        made = socket.create_connection((address, port), timeout=60)
    assert echoes(made)
    return made


def echoes(connection: socket.socket) -> bool:
    """The connection carries something there and back."""
    try:
        connection.sendall(b"hello")
        return connection.recv(5) == b"hello"
    except OSError:
        return False
