"""A real Prometheus and a real Alertmanager beside the daemon, and what they call in the end: a webhook
that takes nothing malformed.

`with chain(namespace, directory, rules) as chain:` starts all three; the rules are the shipped ones with
their waiting times cut short.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from tests.lab.daemon import HTTP_PORT
from tests.lab.wait import PATIENCE, eventually
from tests.netns import Namespace

PROGRAMS = ("prometheus", "prometheus-alertmanager")
PROMETHEUS_PORT, ALERTMANAGER_PORT = 9090, 9093

TOP = {
    "version",
    "groupKey",
    "truncatedAlerts",
    "status",
    "receiver",
    "groupLabels",
    "commonLabels",
    "commonAnnotations",
    "externalURL",
    "alerts",
}
ALERT = {"status", "labels", "annotations", "startsAt", "endsAt", "generatorURL", "fingerprint"}


def problems(message: Any) -> list[str]:
    """What is not as Alertmanager documents its webhook, version 4."""
    if not isinstance(message, dict) or message.keys() != TOP:
        return [f"fields: {sorted(message) if isinstance(message, dict) else type(message).__name__}"]
    found = [] if message["version"] == "4" else [f"version: {message['version']}"]
    for alert in message["alerts"]:
        if alert.keys() != ALERT or alert["status"] not in ("firing", "resolved"):
            found.append(f"alert: {alert}")
        elif any(
            "error expanding template" in text or "<no value>" in text
            for text in alert["annotations"].values()
        ):
            found.append(f"annotations of {alert['labels']['alertname']}: {alert['annotations']}")
    return found


@dataclass
class WebhookReceiver:
    """What was called, in order. `problems` has everything that was wrong with the calls."""

    calls: list[dict[str, Any]] = field(default_factory=list)  # one per alert in a message
    problems: list[str] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def receive(self, body: bytes) -> bool:
        """Take a message; was it well-formed."""
        try:
            message = json.loads(body)
        except ValueError as error:
            message = {"not JSON": str(error)}
        wrong = problems(message)
        with self._changed:
            self.problems += wrong
            self.calls += [] if wrong else message["alerts"]
            self._changed.notify_all()
        return not wrong

    def wait_for(self, status: str, **labels: str) -> dict[str, Any]:
        """The first call about an alert with these labels that is `firing` or `resolved`. AssertionError
        after the usual patience.
        """

        def found() -> dict[str, Any] | None:
            return next(
                (c for c in self.calls if c["status"] == status and labels.items() <= c["labels"].items()),
                None,
            )

        with self._changed:
            self._changed.wait_for(found, PATIENCE)
            call = found()
        assert call is not None, (
            f"no call that {labels} is {status}; there were {self.calls}, problems: {self.problems}"
        )
        return call


@dataclass(frozen=True, slots=True)
class MonitoringStack:
    """The three of them, running."""

    namespace: Namespace
    webhook: WebhookReceiver

    def ask(self, path: str, port: int = PROMETHEUS_PORT, **query: str) -> Any:
        """`data` of an answer of Prometheus' API."""
        status, body = _get(self.namespace, port, f"/api/v1/{path}?{urlencode(query)}")
        assert status == 200, f"{path} {query}: HTTP {status} {body}"
        return json.loads(body)["data"]

    def target(self) -> dict[str, Any]:
        """How Prometheus sees the daemon."""
        (found,) = self.ask("targets")["activeTargets"]
        return dict(found)

    def firing(self) -> set[str]:
        """Names of the alerts that fire now."""
        return {
            alert["labels"]["alertname"]
            for alert in self.ask("alerts")["alerts"]
            if alert["state"] == "firing"
        }


def hasty(rules: str) -> str:
    """The rules with every `for` cut down to a second."""
    document = yaml.safe_load(rules)
    for rule in (rule for group in document["groups"] for rule in group["rules"]):
        rule["for"] = "1s"
    return yaml.safe_dump(document, sort_keys=False)


@contextlib.contextmanager
def chain(namespace: Namespace, directory: Path, rules: str) -> Iterator[MonitoringStack]:
    """Prometheus scrapes the daemon on loopback in the namespace, every second, and tells Alertmanager,
    which calls the webhook.
    """
    with contextlib.ExitStack() as closing:
        webhook, port = closing.enter_context(_webhook(namespace))
        home = directory / "prometheus"
        home.mkdir()
        (home / "rules.yml").write_text(rules)
        (home / "prometheus.yml").write_text(yaml.safe_dump(_prometheus()))
        (home / "alertmanager.yml").write_text(yaml.safe_dump(_alertmanager(f"http://127.0.0.1:{port}/")))
        for argv in (
            (
                "prometheus-alertmanager",
                f"--config.file={home}/alertmanager.yml",
                f"--storage.path={home}/alerts",
                f"--web.listen-address=127.0.0.1:{ALERTMANAGER_PORT}",
                "--cluster.listen-address=",
            ),
            (
                "prometheus",
                f"--config.file={home}/prometheus.yml",
                f"--storage.tsdb.path={home}/series",
                f"--web.listen-address=127.0.0.1:{PROMETHEUS_PORT}",
            ),
        ):
            closing.enter_context(_running(namespace, argv, home / f"{argv[0]}.log"))
        for each in (ALERTMANAGER_PORT, PROMETHEUS_PORT):
            eventually(
                lambda port=each: _get(namespace, port, "/-/ready")[0] == 200, 20, f"port {each} is ready"
            )  # type: ignore[misc]
        yield MonitoringStack(namespace, webhook)


def _prometheus() -> Mapping[str, Any]:
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "500ms"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [
            {"job_name": "facilitator", "static_configs": [{"targets": [f"127.0.0.1:{HTTP_PORT}"]}]}
        ],
        "alerting": {
            "alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{ALERTMANAGER_PORT}"]}]}]
        },
    }


def _alertmanager(url: str) -> Mapping[str, Any]:
    route = {
        "receiver": "double",
        "group_by": ["..."],
        "group_wait": "100ms",
        "group_interval": "500ms",
        "repeat_interval": "1h",
    }
    return {
        "route": route,
        "receivers": [{"name": "double", "webhook_configs": [{"url": url, "send_resolved": True}]}],
    }


@contextlib.contextmanager
def _running(namespace: Namespace, argv: tuple[str, ...], log: Path) -> Iterator[None]:
    with log.open("w") as output:
        process = namespace.popen(
            *argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _webhook(namespace: Namespace) -> Iterator[tuple[WebhookReceiver, int]]:
    webhook = WebhookReceiver()

    class WebhookHandler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken = webhook.receive(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
            self.send_response(200 if taken else 400)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with namespace.entered():
        server = ThreadingHTTPServer(("127.0.0.1", 0), WebhookHandler)  # the socket stays in the namespace
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield webhook, server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _get(namespace: Namespace, port: int, path: str) -> tuple[int, str]:
    """Status (0: nobody listens) and body."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        with namespace.entered(), contextlib.closing(connection):
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, reply.read().decode()
    except OSError:
        return 0, ""
