"""A strict double of PagerDuty's Events API v2: validates every event, keeps the alerts, and misbehaves by
script.

In Python: `with Double() as pagerduty: ... pagerduty.url ... pagerduty.open()`. As a program (for use inside
a namespace): `python -m tests.pagerduty_double --port 0 --port-file F`, then GET /state, POST /script.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROUTING_KEY = "R" * 32
MAX_BODY = 512_000
PER_MINUTE = 120
SEVERITIES = ("critical", "error", "warning", "info")
TOP = {"routing_key", "event_action", "dedup_key", "payload", "images", "links", "client", "client_url"}
PAYLOAD = {"summary", "source", "severity", "timestamp", "component", "group", "class", "custom_details"}


@dataclass
class ScriptedReply:
    """How one request is treated."""

    status: int = 202
    process: bool | None = (
        None  # is the event taken before the answer goes out (or does not)? None: when the status says so
    )
    cut: str = ""  # "answer": close without any answer; "body": status and headers only
    delay: float = 0.0  # seconds before the answer
    hang: bool = False  # no answer until `release`
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class AlertRecord:
    """One alert (what PagerDuty makes of a dedup key)."""

    routing_key: str
    dedup_key: str
    triggers: int = 1  # log entries
    open: bool = True
    event: dict[str, Any] = field(default_factory=dict)


def problems(event: Any) -> list[str]:
    """Everything that PagerDuty would refuse in this event."""
    if not isinstance(event, dict):
        return ["event is not an object"]
    found = [f"{key}: unknown field" for key in sorted(event.keys() - TOP)]
    found += _text(event, "routing_key", required=True)
    if len(str(event.get("routing_key", ""))) != 32:
        found.append("routing_key: length is not 32")
    action = event.get("event_action")
    if action not in ("trigger", "acknowledge", "resolve"):
        found.append("event_action: not one of trigger, acknowledge, resolve")
    found += _text(event, "dedup_key", longest=255, required=action != "trigger")
    if action == "trigger":
        found += _text(event, "client") + _text(event, "client_url") + _payload(event.get("payload"))
    found += _items(event, "images", "src") + _items(event, "links", "href")
    return found


def change_problems(event: Any) -> list[str]:
    """Everything that PagerDuty would refuse in this change event."""
    if not isinstance(event, dict) or not isinstance(event.get("payload"), dict):
        return ["event or payload is not an object"]
    payload = event["payload"]
    found = [
        f"{key}: unknown field"
        for key in sorted(event.keys() - {"routing_key", "payload", "links", "images"})
    ]
    found += [
        f"payload.{key}: unknown field"
        for key in sorted(payload.keys() - {"summary", "source", "timestamp", "custom_details"})
    ]
    found += _text(event, "routing_key", required=True) + _text(
        payload, "summary", longest=1024, required=True
    )
    return found + _text(payload, "source") + _when(payload)


def _when(payload: dict[str, Any]) -> list[str]:
    try:
        datetime.fromisoformat(payload.get("timestamp", "2026-01-01T00:00:00Z"))
    except (ValueError, TypeError):
        return ["payload.timestamp: not ISO 8601"]
    return []


def _payload(payload: Any) -> list[str]:
    if not isinstance(payload, dict):
        return ["payload: missing or not an object"]
    found = [f"payload.{key}: unknown field" for key in sorted(payload.keys() - PAYLOAD)]
    found += _text(payload, "summary", longest=1024, required=True) + _text(payload, "source", required=True)
    if payload.get("severity") not in SEVERITIES:
        found.append(f"payload.severity: not one of {', '.join(SEVERITIES)}")
    for key in ("component", "group", "class", "timestamp"):
        found += _text(payload, key)
    found += _when(payload)
    if not isinstance(payload.get("custom_details", {}), dict):
        found.append("payload.custom_details: not an object")
    return found


def _text(where: dict[str, Any], key: str, *, longest: int = 1 << 20, required: bool = False) -> list[str]:
    value = where.get(key)
    if value is None:
        return [f"{key}: required"] if required or key in where else []
    if not isinstance(value, str) or not (value or not required):
        return [f"{key}: not a text, or empty"]
    return [f"{key}: longer than {longest}"] if len(value) > longest else []


def _items(event: dict[str, Any], key: str, required: str) -> list[str]:
    items = event.get(key, [])
    good = isinstance(items, list) and all(
        isinstance(item, dict) and isinstance(item.get(required), str) for item in items
    )
    return [] if good else [f"{key}: not a list of objects with {required}"]


class Double:
    """The double and its server, on 127.0.0.1 unless said otherwise."""

    def __init__(self, port: int = 0, host: str = "127.0.0.1", per_minute: int = PER_MINUTE) -> None:
        self._changed = threading.Condition()
        self._script: deque[ScriptedReply] = deque()
        self._released = threading.Event()
        self._times: dict[str, deque[float]] = {}
        self._in_flight: dict[str, int] = {}
        self._per_minute = per_minute
        self.alerts: list[AlertRecord] = []
        self.events: list[dict[str, Any]] = []  # everything that was taken
        self.refusals: list[list[str]] = []  # what was wrong with what was not
        self.changes: list[dict[str, Any]] = []  # change events that were taken
        self.posts: list[dict[str, Any]] = []  # what came to the webhook at /hook/...
        self.requests = 0  # that have arrived
        self.parallel: list[str] = []  # dedup keys with two events under way at once
        double = self

        class PagerDutyHandler(_ControlHandler):
            owner = double

        self.server = ThreadingHTTPServer((host, port), PagerDutyHandler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://{host}:{self.port}"

    def __enter__(self) -> Double:
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self.server.shutdown()
        self.server.server_close()

    # --- for tests
    # ------------------------------------------------------------------------------------------------------

    def script(self, *steps: ScriptedReply) -> None:
        """The next requests are treated so, one step each; after that all is well again."""
        with self._changed:
            self._script.extend(steps)

    def release(self) -> None:
        """Let what hangs go on."""
        self._released.set()

    def hang_again(self) -> None:
        """Take `release` back: what hangs from now on waits for the next one."""
        self._released.clear()

    @property
    def in_flight(self) -> int:
        """Requests that have arrived and were not answered yet."""
        return sum(self._in_flight.values())

    def wait(self, condition: Callable[[Double], bool], timeout: float = 60.0) -> bool:
        """True as soon as the condition holds; it is looked at after each change."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self), timeout)

    def open(self) -> dict[str, AlertRecord]:
        """Open alerts by dedup key; two open ones under one key are an error of the test's subject."""
        records = [alert for alert in self.alerts if alert.open]
        assert len({alert.dedup_key for alert in records}) == len(records), (
            f"two open alerts under one dedup key: {records}"
        )
        return {alert.dedup_key: alert for alert in records}

    def state(self) -> dict[str, Any]:
        """What GET /state says."""
        with self._changed:
            return {
                "requests": self.requests,
                "open": sorted(self.open()),
                "alerts": [asdict(a) for a in self.alerts],
                "events": self.events,
                "changes": self.changes,
                "posts": self.posts,
                "refusals": self.refusals,
                "parallel": self.parallel,
            }

    # --- for the server
    # ----------------------------------------------------------------------------------------------------

    def arrive(self, raw: bytes) -> tuple[ScriptedReply, dict[str, Any], str]:
        """One request: the step that treats it, the answer's document, and the dedup key it is about."""
        with self._changed:
            self.requests += 1
            step = self._script.popleft() if self._script else ScriptedReply()
            event = _parsed(raw)
            key = str(event.get("dedup_key", "")) if isinstance(event, dict) else ""
            self._in_flight[key] = self._in_flight.get(key, 0) + 1
            if self._in_flight[key] > 1:
                self.parallel.append(key)
            step, document = self._judge(step, event, len(raw))
            self._changed.notify_all()
        return step, document, key

    def take_change(self, event: Any) -> tuple[int, dict[str, Any]]:
        """A change event: nobody is called."""
        with self._changed:
            errors = change_problems(event)
            if errors:
                self.refusals.append(errors)
                return 400, {
                    "status": "invalid event",
                    "message": "Event object is invalid",
                    "errors": errors,
                }
            self.changes.append(event)
            self._changed.notify_all()
        return 202, {"status": "success", "message": "Event processed"}

    def take_post(self, raw: bytes) -> ScriptedReply:
        """One request to the webhook, treated by the same script."""
        with self._changed:
            step = self._script.popleft() if self._script else ScriptedReply(200)
            if step.status < 300 if step.process is None else step.process:
                self.posts.append(_parsed(raw))
            self._changed.notify_all()
        return step

    def leave(self, key: str) -> None:
        """The request is over."""
        with self._changed:
            self._in_flight[key] -= 1
            self._changed.notify_all()

    def hold(self, step: ScriptedReply) -> None:
        """Wait as the step says."""
        if step.hang:
            self._released.wait(60)
        elif step.delay:
            self._released.wait(step.delay)

    def _judge(self, step: ScriptedReply, event: Any, size: int) -> tuple[ScriptedReply, dict[str, Any]]:
        errors = [f"body of {size} bytes is too large"] if size > MAX_BODY else problems(event)
        if errors:
            self.refusals.append(errors)
            return ScriptedReply(400), {
                "status": "invalid event",
                "message": "Event object is invalid",
                "errors": errors,
            }
        if self._too_many(event["routing_key"]):
            self.refusals.append(["too many"])
            return ScriptedReply(429), {
                "status": "throttle exceeded",
                "message": "Requests for this service are arriving too quickly",
            }
        if step.status == 202 if step.process is None else step.process:
            self._process(event)
        if step.status != 202:
            return step, {"status": "error", "message": f"scripted {step.status}", "errors": ["scripted"]}
        return step, {
            "status": "success",
            "message": "Event processed",
            "dedup_key": event.get("dedup_key", ""),
        }

    def _too_many(self, routing_key: str) -> bool:
        times = self._times.setdefault(routing_key, deque())
        now = time.monotonic()
        while times and times[0] <= now - 60:
            times.popleft()
        times.append(now)
        return len(times) > self._per_minute

    def _process(self, event: dict[str, Any]) -> None:
        """The semantics of deduplication: the pair of routing key and dedup key names at most one open
        alert.
        """
        self.events.append(event)
        same = (
            a
            for a in self.alerts
            if a.open and (a.routing_key, a.dedup_key) == (event["routing_key"], event["dedup_key"])
        )
        known = next(same, None)
        match event["event_action"]:
            case "trigger" if known is None:
                self.alerts.append(AlertRecord(event["routing_key"], event["dedup_key"], event=event))
            case "trigger":
                known.triggers += 1
            case "resolve" if known is not None:
                known.open = False


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


class _ControlHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Double

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/script":
            self.owner.script(*(ScriptedReply(**step) for step in json.loads(raw)))
            self._answer(200, {})
        elif self.path == "/release":
            self.owner.release()
            self._answer(200, {})
        elif self.path == "/v2/change/enqueue":
            self._answer(*self.owner.take_change(_parsed(raw)))
        elif self.path.startswith("/hook/"):
            self._hook(raw)
        elif self.path != "/v2/enqueue":
            self._answer(404, {"message": "no such path"})
        else:
            self._enqueue(raw)

    def do_GET(self) -> None:
        if self.path == "/state":
            self._answer(200, self.owner.state())
        else:
            self._answer(404, {"message": "no such path"})

    def _hook(self, raw: bytes) -> None:
        step = self.owner.take_post(raw)
        self.owner.hold(step)
        if step.cut:
            self.close_connection = True
        if step.cut != "answer":
            self._answer(step.status, {}, headers=step.headers, cut=step.cut == "body")

    def _enqueue(self, raw: bytes) -> None:
        step, document, key = self.owner.arrive(raw)
        try:
            self.owner.hold(step)
        finally:
            self.owner.leave(key)  # before the answer: who has it may send the next
        if step.cut:
            self.close_connection = True
        if step.cut != "answer":
            self._answer(step.status, document, headers=step.headers, cut=step.cut == "body")

    def _answer(
        self, status: int, document: Any, *, headers: dict[str, str] | None = None, cut: bool = False
    ) -> None:
        body = json.dumps(document).encode()
        try:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if not cut:
                self.wfile.write(body)
        except OSError:
            self.close_connection = True  # the other side was killed: that is what some tests do

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def main() -> None:
    """Serve until killed; the port is written to --port-file when requests are taken."""
    parser = argparse.ArgumentParser(prog="python -m tests.pagerduty_double", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-file", type=Path)
    options = parser.parse_args()
    double = Double(options.port, options.host)
    if options.port_file is not None:
        partial = options.port_file.with_suffix(".partial")
        partial.write_text(f"{double.port}\n")
        partial.rename(options.port_file)
    double.server.serve_forever()


if __name__ == "__main__":
    main()
