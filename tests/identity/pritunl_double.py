"""A strict double of Pritunl's API: it checks what Pritunl checks (auth/administrator.py), refuses the rest.

Token, timestamp within the window, nonce of 8 to 32 characters that was never used, HMAC over
`token&timestamp&nonce&METHOD&/path`: any fault is 401. Only GET of the paths below is answered, so whoever
writes fails.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TOKEN, SECRET = "p7g444S3IZ5wmFvmzWmx14qACXdzQ25b", "OpS9fjxkPI3DclkdKDDr6mqYVd0DJh4i"
WINDOW_SECONDS = 43_200


class PritunlDouble:
    """What it knows, and what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {
            "/organization": [{"id": "60cd0be07723cf3c9114686c", "name": "acme", "auth_api": False, "user_count": 2}],
            "/user/60cd0be07723cf3c9114686c": [user("alice", "10.8.0.6", ["engineers"]), user("bob", None, [])],
            "/server": [{"id": "60cd0be17723cf3c9114689d", "name": "us-east", "status": "online",
                         "network": "10.8.0.0/16", "restrict_routes": True, "groups": []}],
            "/server/60cd0be17723cf3c9114689d/route": [
                route("10.77.0.0/24", nat=False), route("10.99.0.0/16"), route("10.90.0.0/16", advertise=True)
            ],
        }  # fmt: skip
        self.nonces: set[str] = set()
        self.asked: list[str] = []
        self.refused = 0

    def allows(self, method: str, path: str, headers: Any) -> bool:
        """The check of a request."""
        token, stamp, nonce, signature = (
            headers.get(f"Auth-{name}", "") for name in ("Token", "Timestamp", "Nonce", "Signature")
        )
        text = "&".join((token, stamp, nonce, method, path.partition("?")[0])).encode()
        expected = base64.b64encode(hmac.new(SECRET.encode(), text, hashlib.sha256).digest()).decode()
        fresh = stamp.isdecimal() and abs(time.time() - int(stamp)) < WINDOW_SECONDS
        ok = token == TOKEN and fresh and 8 <= len(nonce) <= 32 and nonce not in self.nonces
        self.nonces.add(nonce)
        return ok and hmac.compare_digest(signature, expected)


def user(name: str, address: str | None, groups: list[str], **more: Any) -> dict[str, Any]:
    """A user with one profile, connected or not."""
    profile = {
        "id": "60cd0be17723cf3c9114689d", "server_id": "60cd0be17723cf3c9114689d", "name": "us-east",
        "status": address is not None, "device_name": "laptop", "platform": "linux",
        "real_address": "198.51.100.7", "virt_address": address, "virt_address6": None,
        "connected_since": 1_700_000_000 if address else None,
    }  # fmt: skip
    return {
        "id": f"id{name}", "organization": "60cd0be07723cf3c9114686c", "name": name, "email": f"{name}@example.net",
        "groups": groups, "disabled": False, "type": "client", "status": address is not None, "servers": [profile], **more,
    }  # fmt: skip


def route(network: str, nat: bool = True, advertise: bool = False) -> dict[str, Any]:
    """A route of a server."""
    return {
        "id": network.encode().hex(), "network": network, "comment": None, "metric": None, "nat": nat,
        "nat_interface": None, "nat_netmap": None, "advertise": advertise, "vpc_region": None, "vpc_id": None,
        "net_gateway": False, "virtual_network": False, "server_link": False,
    }  # fmt: skip


@contextmanager
def pritunl() -> Iterator[tuple[PritunlDouble, str]]:
    """It serves; its URL."""
    double = PritunlDouble()

    class PritunlHandler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            double.asked.append(self.path)
            if not double.allows("GET", self.path, self.headers):
                double.refused += 1
                return self._answer(401, b"{}")
            known = double.answers.get(self.path)
            return self._answer(404 if known is None else 200, json.dumps(known).encode())

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), PritunlHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield double, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
