"""Every answer of a real daemon is one that docs/openapi.json describes, without a key more."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator

import pytest

from tests.control.published import PublishedApi
from tests.lab import Lab
from tests.lab.config import Config
from tests.lab.daemon import HTTP_PORT, LabDaemon, LabPagerDuty
from tests.lab.network import DATACENTRE_WEB
from tests.lab.wait import PATIENCE, eventually

pytestmark = pytest.mark.root

OVER_TCP = ("/", "/metrics", "/healthz", "/readyz", "/healthz/carries/10.77.0.0_24", "/api/v1/status")
READ_ONLY = (
    "plan",
    "alerts",
    "history",
    "history?tunnel=acme-dc&limit=5",
    "audit",
    f"why?address={DATACENTRE_WEB}",
    "why?address=192.0.2.1&from=10.8.0.2&port=443",
    "tunnels/acme-dc/logs?lines=3",
    "tunnels/acme-dc/question",
)
ORDERS = (
    "alerts/test",
    "alerts/test?tunnel=acme-dc",
    "reload",
    "tunnels/acme-dc/stop?drain=1&wait=20",
    "tunnels/acme-dc/start?wait=20",
    "tunnels/acme-dc/restart?wait=20",
    "tunnels/own-cloud/stop?wait=20",
)
REFUSED = (
    ("POST", "hand-over", 409),
    ("GET", "why?address=here", 400),
    ("GET", "history?tunnel=nobody", 404),
    ("GET", "tunnels/acme-dc/logs?lines=many", 400),
    ("POST", "tunnels/nobody/start", 404),
    ("POST", "alerts/test?tunnel=nobody", 404),
    ("POST", "tunnels/acme-dc/answer", 409),
    ("GET", "fleet", 404),
    ("POST", "fleet/orders/stop/acme-dc?wait=0", 404),
)


class ControlSocketConnection(http.client.HTTPConnection):
    """HTTP over the daemon's control socket."""

    def __init__(self, daemon: LabDaemon) -> None:
        super().__init__("facilitator", timeout=PATIENCE)
        self._path = daemon.runtime_dir / "control.sock"

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(self._path))


class CheckedDaemon:
    """A daemon whose answers are compared with the description."""

    def __init__(self, daemon: LabDaemon) -> None:
        self.daemon, self.published = daemon, PublishedApi()

    def ask(self, method: str, target: str, status: int = 200, *, tcp: bool = False) -> str:
        """Ask, compare, and give the body."""
        place = self.daemon.namespace.entered() if tcp else contextlib.nullcontext()
        made = (
            http.client.HTTPConnection("127.0.0.1", HTTP_PORT, timeout=PATIENCE)
            if tcp
            else ControlSocketConnection(self.daemon)
        )
        with place, contextlib.closing(made):
            made.request(method, target, "123456" if target.endswith("/answer") else None)
            answer = made.getresponse()
            body = answer.read().decode()
        assert answer.status == status, f"{method} {target}: {answer.status} {body}"
        media_type = (answer.getheader("Content-Type") or "").partition(";")[0]
        self.published.check(method, target, answer.status, media_type, body)
        return body

    def events(self, query: str, name: str, count: int) -> None:
        """Compare so many events."""
        connection = http.client.HTTPConnection("127.0.0.1", HTTP_PORT, timeout=PATIENCE)
        with self.daemon.namespace.entered(), contextlib.closing(connection):
            connection.request("GET", f"/api/v1/events{query}")
            reply = connection.getresponse()
            media_type = (reply.getheader("Content-Type") or "").partition(";")[0]
            self.published.check("GET", "/api/v1/events", reply.status, media_type, "")
            told = (json.loads(line.removeprefix(b"data: ")) for line in reply if line.startswith(b"data: "))
            for _ in range(count):
                assert self.published.document_errors(name, next(told)) == []


@pytest.fixture
def checked(lab: Lab, config: Config, pagerduty: LabPagerDuty) -> Iterator[CheckedDaemon]:
    """A daemon that keeps an audit and has a receiver of incidents."""
    more = {"audit": {"file": "audit.log"}, "alerts": lab.configuration(pagerduty)["alerts"]}
    with lab.daemon({**config, **more}) as daemon:
        daemon.wait_well()
        yield CheckedDaemon(daemon)


def test_a_daemon_answers_as_published(lab: Lab, checked: CheckedDaemon) -> None:
    assert lab.request(f"http://{DATACENTRE_WEB}/").status == 200
    eventually(
        lambda: json.loads(checked.ask("GET", "/api/v1/audit"))["totals"], 10, "the audit counts the flow"
    )
    for path in OVER_TCP:
        checked.ask("GET", path, tcp=True)
        checked.ask("GET", path)
    for target in READ_ONLY:
        checked.ask("GET", f"/api/v1/{target}")
    for query, name in (("", "StatusEvent"), ("?as=html", "StatusPageEvent")):
        checked.events(query, name, 3)
    for target in ORDERS:
        checked.ask("POST", f"/api/v1/{target}")
    assert '"taken": true' in checked.ask("POST", "/api/v1/alerts/test")
    for method, target, status in REFUSED:
        checked.ask(method, f"/api/v1/{target}", status)
    for target in ("status", *READ_ONLY):
        checked.ask("GET", f"/api/v1/{target}")
    checked.ask("POST", "/api/v1/drain")
    checked.ask("POST", "/api/v1/reload", 503)
    checked.ask("GET", "/readyz", 503, tcp=True)
    missing = {(method, path) for method, path, _ in checked.published.operations()} - {
        (method, path) for method, path, _ in checked.published.seen
    }
    assert missing == {("POST", "/api/v1/upgrade")}, "whose success is the end of the connection"
