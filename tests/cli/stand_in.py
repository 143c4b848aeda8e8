"""A daemon that gives prepared answers at a control socket."""

from __future__ import annotations

import contextlib
import http.server
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class StandInHandler(http.server.BaseHTTPRequestHandler):
    """A request at a Unix socket; what it does is the test's."""

    def send(self, body: bytes, status: int = 200) -> None:
        """The whole answer."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *arguments: Any) -> None:
        return None


@contextlib.contextmanager
def answering(path: Path, handler: type[StandInHandler]) -> Iterator[Path]:
    """Answers at this socket."""
    with socketserver.ThreadingUnixStreamServer(str(path), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield path
        server.shutdown()
