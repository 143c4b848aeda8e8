"""The EC2 API as moto has it, with what moto does not do and AWS does: answers that are stale or throttled,
routes to interfaces that are gone, DryRun.
"""

from __future__ import annotations

import http.client
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import boto3
from moto.server import ThreadedMotoServer

REGION = "eu-central-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "double", "AWS_SECRET_ACCESS_KEY": "double"}
_THROTTLED = (503, "RequestLimitExceeded", "Request limit exceeded.")
_NO_ROOM = (400, "RouteLimitExceeded", "The maximum number of routes has been reached.")
_DRY_RUN = (412, "DryRunOperation", "Request would have succeeded, but DryRun flag is set.")


class AwsDouble:
    """`with AwsDouble() as aws`: an endpoint, and its faults."""

    def __init__(self) -> None:
        self._moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._front: ThreadingHTTPServer | None = None
        self.calls: Counter[str] = Counter()
        self.throttled = 0  # so many of the next calls
        self.stale = 0  # so many of the next readings of route tables show what stood there before
        self.gone: set[str] = set()  # interfaces that exist no more
        self.no_room: set[str] = set()  # networks for which the table has no room left
        self._before: bytes | None = None  # the reading before the last write
        self._latest: bytes | None = None

    def __enter__(self) -> AwsDouble:
        self._moto.start()
        double = self

        class Front(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, answer = double.answer(self.path, dict(self.headers), body)
                self.send_response(status)
                self.send_header("Content-Type", "text/xml")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self._front = ThreadingHTTPServer(("127.0.0.1", 0), Front)
        threading.Thread(target=self._front.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._front is not None
        self._front.shutdown()
        self._front.server_close()
        self._moto.stop()

    @property
    def endpoint(self) -> str:
        """Its URL."""
        assert self._front is not None
        return f"http://127.0.0.1:{self._front.server_address[1]}"

    def client(self) -> Any:
        """A client of boto3."""
        return boto3.client(
            "ec2",
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id="double",
            aws_secret_access_key="double",  # noqa: S106 - of a double
        )

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """What a caller gets."""
        asked = {key: values[0] for key, values in parse_qs(body.decode()).items()}
        action = asked["Action"]
        self.calls[action] += 1
        if self.throttled > 0:
            self.throttled -= 1
            return _refused(*_THROTTLED)
        if asked.get("DryRun", "false").lower() == "true":
            return _refused(*_DRY_RUN)
        if asked.get("DestinationCidrBlock") in self.no_room:
            return _refused(*_NO_ROOM)
        if action == "DescribeRouteTables" and self.stale > 0 and self._before is not None:
            self.stale -= 1
            return 200, self._before
        if action in ("ReplaceRoute", "CreateRoute"):
            self._before = self._latest
        status, answer = self._forwarded(path, headers, body)
        if action == "DescribeRouteTables" and status == 200:
            self._latest = answer = self._with_black_holes(answer)
        return status, answer

    def _forwarded(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        host, port = self._moto.get_host_and_port()
        connection = http.client.HTTPConnection(host, port, timeout=30)
        connection.request("POST", path, body, {**headers, "Host": f"ec2.{REGION}.amazonaws.com"})
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found

    def _with_black_holes(self, answer: bytes) -> bytes:
        text = answer.decode()
        for interface in self.gone:
            around = rf"(<networkInterfaceId>{interface}</networkInterfaceId>.*?<state>)active"
            text = re.sub(around, r"\1blackhole", text, flags=re.DOTALL)
        return text.encode()


def _refused(status: int, code: str, text: str) -> tuple[int, bytes]:
    body = (
        f"<Response><Errors><Error><Code>{code}</Code><Message>{text}</Message></Error></Errors></Response>"
    )
    return status, body.encode()
