"""What `facilitator alerts` prints."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

import pytest
from click.testing import CliRunner

from supervisor.cli.alerts import alerts

INCIDENTS = [
    {
        "name": "acme",
        "dedup_key": "facilitator/vpn1/acme",
        "since": "2026-01-01T00:00:00Z",
        "wanted": "open",
        "there": "open",
        "waits": None,
    },
    {
        "name": "own",
        "dedup_key": "facilitator/vpn1/own",
        "since": "2026-01-01T00:01:00Z",
        "wanted": "closed",
        "there": "unknown",
        "waits": {"action": "resolve", "attempts": 2, "error": "503"},
    },
]
RECEIVER = {
    "name": "pagerduty",
    "configured": True,
    "store_usable": False,
    "pending": 1,
    "oldest": "2026-01-01T00:02:00Z",
    "last_error": "2026-01-01T00:03:00Z resolve own: 503",
    "incidents": INCIDENTS,
    "refused": [
        {
            "at": "2026-01-01T00:00:30Z",
            "dedup_key": "facilitator/vpn1/old",
            "action": "trigger",
            "error": "400",
        }
    ],
}


class FixedReply(ThreadingUnixStreamServer):
    """A daemon that says one thing on its control socket."""

    daemon_threads = True

    def __init__(self, path: Path, document: dict[str, Any]) -> None:
        self.body = json.dumps(document).encode()
        self.asked: list[str] = []
        super().__init__(str(path), FixedHandler)


class FixedHandler(BaseHTTPRequestHandler):
    """Answers whatever is asked."""

    server: FixedReply

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path: that of a socket may not be long."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


def said(directory: Path, receivers: list[dict[str, Any]], *arguments: str) -> tuple[int, str, list[str]]:
    path = directory / "s"
    path.unlink(missing_ok=True)
    with FixedReply(path, {"facilitator": "vpn1", "receivers": receivers}) as daemon:
        threading.Thread(target=daemon.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        result = CliRunner().invoke(alerts, [*arguments, "--socket", str(path)])
        daemon.shutdown()
    return result.exit_code, result.output, daemon.asked


def test_what_is_open_and_what_waits(directory: Path) -> None:
    code, text, asked = said(directory, [RECEIVER])
    assert (code, asked) == (0, ["GET /api/v1/alerts"])
    assert text.splitlines() == [
        "pagerduty  2 open, 1 waiting to be sent",
        "  the store on disk cannot be used: a crash of the daemon would lose what waits",
        "  the oldest has waited since 2026-01-01T00:02:00Z",
        "  last error: 2026-01-01T00:03:00Z resolve own: 503",
        "  2026-01-01T00:00:00Z  acme  open",
        "  2026-01-01T00:01:00Z  own  resolve waits to be sent, 2 attempts so far: 503",
        "  refused for good at 2026-01-01T00:00:30Z: trigger of facilitator/vpn1/old: 400",
    ]


def test_as_json(directory: Path) -> None:
    _, text, _ = said(directory, [RECEIVER], "--json")
    assert json.loads(text)["receivers"] == [RECEIVER]


def test_nobody_would_be_called(directory: Path) -> None:
    code, text, _ = said(directory, [])
    assert (code, "nobody would be paged" in text) == (0, True)
    code, text, _ = said(directory, [], "--test")
    assert (code, "nobody would be paged" in text) == (1, True)


@pytest.mark.parametrize("taken", [True, False])
def test_what_the_receivers_answered(directory: Path, taken: bool) -> None:
    answer = "accepted" if taken else "rejected: 400 invalid event"
    tried = [{"name": "pagerduty", "taken": taken, "trigger": answer, "resolve": "accepted"}]
    code, text, asked = said(directory, tried, "--test")
    assert (code, asked) == (0 if taken else 1, ["POST /api/v1/alerts/test"])
    assert text.splitlines() == [f"pagerduty: trigger: {answer}", "pagerduty: resolve: accepted"]


def test_a_test_through_the_routing_key_of_a_tunnel(directory: Path) -> None:
    tried = [{"name": "pagerduty", "taken": True, "trigger": "accepted", "resolve": "accepted"}]
    code, _, asked = said(directory, tried, "--test", "--tunnel", "acme-dc")
    assert (code, asked) == (0, ["POST /api/v1/alerts/test?tunnel=acme-dc"])
    code, _, asked = said(directory, tried, "--tunnel", "acme-dc")
    assert (code, asked) == (2, [])
