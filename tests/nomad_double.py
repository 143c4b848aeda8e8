"""A strict double of a Nomad agent's task API: `api.sock` in the secrets directory of a task.

It answers what real agents (2.0.5) answered at each kind of end, refuses every request that they would
refuse, and misbehaves on demand. `problems` has everything that was wrong with the requests.
"""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

ALLOCATION, NEXT, OTHER = (f"{letter * 8}-1111-2222-3333-444444444444" for letter in "abc")
TOKEN = "eyJ.workload-identity.sig"
JOB, NAMESPACE = "facilitator", "default"
NODE, OTHER_NODE = "node-1", "node-2"

RUNNING: Mapping[str, Any] = {
    "ID": ALLOCATION,
    "JobID": JOB,
    "Namespace": NAMESPACE,
    "NodeID": NODE,
    "ClientStatus": "running",
    "DesiredStatus": "run",
    "DesiredDescription": "",
    "DesiredTransition": {"Migrate": None, "Reschedule": None, "ForceReschedule": None},
    "NextAllocation": None,
}
# What happens to the task -> how its allocation, and its job, then differ.
ENDS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "restart": ({}, {}),
    "update": (
        {
            "DesiredStatus": "stop",
            "DesiredDescription": "alloc is being updated due to job update",
            "NextAllocation": NEXT,
        },
        {},
    ),
    "lost": (
        {
            "DesiredStatus": "stop",
            "ClientStatus": "lost",
            "DesiredDescription": "alloc is lost since its node is down",
            "NextAllocation": NEXT,
        },
        {},
    ),
    "drain": (
        {
            "DesiredStatus": "stop",
            "DesiredDescription": "alloc not needed as node is tainted",
            "DesiredTransition": {"Migrate": True, "Reschedule": None, "ForceReschedule": None},
        },
        {},
    ),
    "stop": (
        {"DesiredStatus": "stop", "DesiredDescription": "alloc not needed due to job update"},
        {"Stop": True},
    ),
}
FAULTS = ("403", "500", "half", "other", "no-json", "closed", "array", "huge")
LASTING = ("silence", "dribble")  # faults that take as long as one waits


@dataclass
class TaskAPI:
    """The agent's side. `end` and `fault` may be changed at any time; `asked` has the paths so far."""

    secrets: Path
    end: str = "restart"
    fault: str | None = None
    job_type: str = "system"
    purged: bool = False
    next_node: str = NODE
    asked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def environment(self) -> dict[str, str]:
        """What the task finds in its environment, without the token: that is in a file."""
        return {
            "NOMAD_ALLOC_ID": ALLOCATION,
            "NOMAD_JOB_ID": JOB,
            "NOMAD_NAMESPACE": NAMESPACE,
            "NOMAD_SECRETS_DIR": str(self.secrets),
        }

    def document(self, path: str, query: Mapping[str, list[str]]) -> tuple[int, Any]:
        """The status and the document for one GET."""
        allocation, job = ENDS[self.end]
        match path.split("/"):
            case ["", "v1", "allocation", wanted] if wanted == ALLOCATION:
                return 200, {**RUNNING, **allocation}
            case ["", "v1", "allocation", wanted] if wanted == NEXT:
                return 200, {**RUNNING, "ID": NEXT, "NodeID": self.next_node}
            case ["", "v1", "job", wanted]:
                if query.get("namespace") != [NAMESPACE]:
                    self.problems.append(f"namespace {query.get('namespace')}")
                if unquote(wanted) != JOB or self.purged:
                    return 404, "job not found"
                return 200, {"ID": JOB, "Namespace": NAMESPACE, "Type": self.job_type, "Stop": False, **job}
        self.problems.append(f"GET {path} is not known")
        return 404, "no such thing"


@contextlib.contextmanager
def task_api(secrets: Path, end: str = "restart", **how: Any) -> Iterator[TaskAPI]:
    """An agent that serves the task API for a task with this secrets directory."""
    secrets.mkdir(exist_ok=True)
    (secrets / "nomad_token").write_text(TOKEN)
    api = TaskAPI(secrets, end, **how)

    class TaskAPIHandler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, api)

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *_: object) -> None:
            pass

    class TaskAPIServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    with TaskAPIServer(str(secrets / "api.sock"), TaskAPIHandler) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        try:
            yield api
        finally:
            api.released.set()
            server.shutdown()
            serving.join()
            (secrets / "api.sock").unlink()


def _answer(request: BaseHTTPRequestHandler, api: TaskAPI) -> None:
    at = urlsplit(request.path)
    api.asked.append(at.path)
    if request.headers.get("Authorization") != f"Bearer {TOKEN}":
        api.problems.append("no token, or a wrong one")
        return _send(request, 403, "Permission denied")
    status, document = api.document(at.path, parse_qs(at.query))
    match api.fault:
        case "403":
            return _send(request, 403, "Permission denied")
        case "500":
            return _send(request, 500, "Unknown allocation")
        case "silence":
            api.released.wait(30)
            return None
        case "closed":
            return None
        case "other" if isinstance(document, dict):
            document = {**document, "ID": OTHER}
        case "no-json":
            return _send(request, 200, "<html>proxy</html>")
        case "array":
            document = [document]
        case "huge":
            document = {"ID": "x" * (9 << 20)}
        case "half":
            return _send(request, status, json.dumps(document), cut=20)
        case "dribble":
            return _dribble(request, api)
    return _send(request, status, document if isinstance(document, str) else json.dumps(document))


def _send(request: BaseHTTPRequestHandler, status: int, body: str, cut: int | None = None) -> None:
    data = body.encode()
    with contextlib.suppress(OSError):
        request.send_response(status)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[:cut])


def _dribble(request: BaseHTTPRequestHandler, api: TaskAPI) -> None:
    """A byte now and then, so that no single read takes long."""
    with contextlib.suppress(OSError):
        request.send_response(200)
        request.end_headers()
        while not api.released.wait(0.1):
            request.wfile.write(b" ")
            request.wfile.flush()
