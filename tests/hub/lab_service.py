"""The session service of the lab: the real one in the namespace of the outside world, and its operator."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import re
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from hub.core import api, routes
from tests.lab.pki import Authority
from tests.lab.servers import Server
from tests.lab.wait import PATIENCE, eventually
from tests.netns import Namespace

HUB = str(Path(sys.executable).with_name("facilitator-hub"))
PORT, HTTP_PORT, PAGES_PORT, WEBHOOK_PORT, PROVIDER_PORT = 8443, 9465, 8080, 8081, 8082
CROWD = tuple(f"person{number}" for number in range(700))
SEED = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
PEOPLE: dict[str, Any] = {
    **{name: {"groups": ["engineers"]} for name in ("alice", "bob", "carol", "dora", *CROWD)},
    "tom": {"method": "totp"},
    "nora": {"method": "notification"},
    "olga": {"method": "oidc"},
    "old": {"state": "disabled"},
}


class LabService(Server):
    """`start`, `stop` and `kill` as often as wanted; its database stays."""

    def __init__(
        self, namespace: Namespace, directory: Path, authority: Authority, addresses: tuple[str, ...]
    ) -> None:
        self._directory, self._address, self._ca = directory, addresses[0], authority.root.certificate
        shown = authority.issue("sessions", "serverAuth", *addresses)
        self._operator = authority.issue("ops", "clientAuth")
        self.config = directory / "service.yaml"
        for name, text in (
            ("people.yaml", json.dumps({"people": PEOPLE})),
            ("seeds.yaml", f"tom: {SEED}\n"),
            ("webhook", f"http://127.0.0.1:{WEBHOOK_PORT}/"),
            ("webhook-key", "a key of the lab"),
        ):
            (directory / name).write_text(text)
        sessions = {
            "listen": f"0.0.0.0:{PORT}",
            "http": f"127.0.0.1:{HTTP_PORT}",
            "tls": {
                "certificate": str(shown.certificate), "key": str(shown.key), "client_ca": str(self._ca),
                "roles": {"sidecar": ["CN=node-a", "CN=node-b"], "admin": ["CN=ops"]},
            },
            "database": f"sqlite://{directory}/sessions.db",
            "addresses": {"networks": ["10.8.0.0/16"]},
            "people": {"file": "people.yaml"},
            "heartbeat": "1s",
            "login": {
                "totp": {"seeds": {"file": "seeds.yaml"}},
                "notification": {
                    "webhook": {"file": "webhook"}, "key": {"file": "webhook-key"}, "timeout": "90s"
                },
            },
            "pages": {"listen": f"127.0.0.1:{PAGES_PORT}", "url": f"http://127.0.0.1:{PAGES_PORT}"},
        }  # fmt: skip
        self.config.write_text(json.dumps({"sessions": sessions}))
        argv = (HUB, "sessions", "-c", str(self.config))
        super().__init__(namespace, directory, "sessions", argv, '"serving"')

    def add_identity_provider(self, client: str, secret: str) -> str:
        """Before the start: people may log in there; our redirect URI."""
        (self._directory / "oidc-secret").write_text(secret)
        document = json.loads(self.config.read_text())
        document["sessions"]["login"]["oidc"] = {
            "issuer": f"http://127.0.0.1:{PROVIDER_PORT}", "client": client, "secret": {"file": "oidc-secret"},
            "same_address": False,
        }  # fmt: skip
        self.config.write_text(json.dumps(document))
        return f"{document['sessions']['pages']['url']}/oidc"

    # --- the operator ---

    def ask(self, method: str, path: str, body: object = None, **query: object) -> Any:
        """One question over mutual TLS."""
        context = ssl.create_default_context(cafile=str(self._ca))
        context.load_cert_chain(self._operator.certificate, self._operator.key)
        with self.namespace.entered():
            connection = http.client.HTTPSConnection(self._address, PORT, timeout=PATIENCE, context=context)
            connection.connect()
        with contextlib.closing(connection):
            text = None if body is None else json.dumps(body)
            connection.request(method, f"{path}?{urlencode(query)}", text)
            response = connection.getresponse()
            assert response.status < 300, response.read()
            return json.loads(response.read())

    def open(self, person: str | None = None) -> list[api.SessionView]:
        """The sessions that are open, also those whose login waits."""
        query = {"person": person} if person else {}
        found = self.ask("GET", routes.SESSIONS.path, limit=10_000, **query)
        return list(api.SessionList.model_validate(found).sessions)

    def up(self, person: str) -> list[api.SessionView]:
        """This person's sessions that are up."""
        return [each for each in self.open(person) if each.state is api.StaffSessionState.UP]

    def history(self, person: str) -> list[api.SessionView]:
        """This person's sessions and refused logins, the newest first."""
        found = self.ask("GET", routes.HISTORY.path, person=person, limit=10_000)
        return list(api.SessionList.model_validate(found).sessions)

    def nodes(self) -> dict[str, api.NodeView]:
        """The servers by name."""
        found = api.NodeList.model_validate(self.ask("GET", routes.NODES.path))
        return {each.node: each for each in found.nodes}

    def block(self, person: str) -> None:
        """The person may not log in any more, and its sessions end."""
        self.ask("POST", routes.BLOCK.path, {"person": person})

    # --- the person with a phone ---

    @contextlib.contextmanager
    def phone(self) -> Iterator[list[dict[str, Any]]]:
        """What the notifier receives, as long as the context is open."""
        with self.namespace.entered():
            server = _Phone(("127.0.0.1", WEBHOOK_PORT), _Received)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.received
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def decide(self, link: str, number: str) -> int:
        """Press a button of the page behind a link; `no` denies. The status."""
        url = urlsplit(link)
        token = url.query.removeprefix("token=")
        with self.namespace.entered():
            connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=PATIENCE)
            connection.connect()
        with contextlib.closing(connection):
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            connection.request("POST", url.path, urlencode({"token": token, "number": number}), headers)
            return connection.getresponse().status


class _Phone(http.server.ThreadingHTTPServer):
    def __init__(self, address: tuple[str, int], handler: type[http.server.BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self.received: list[dict[str, Any]] = []


class _Received(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """A notification."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert isinstance(self.server, _Phone)
        self.server.received.append(json.loads(body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Links are secrets."""


class LoginPrompt:
    """A person at an OpenVPN client that asks for user name, password and codes (its management socket)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[str] = []
        self._socket = _connected(path)
        self._reader = self._socket.makefile()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The next line that matches."""
        for line in self._reader:
            self._lines.append(line)
            if (found := re.search(pattern, line)) is not None:
                return found
        raise AssertionError(f"the client has ended before it said {pattern!r}: {self._lines}")

    def say(self, command: str) -> None:
        """A command for the client."""
        self._socket.sendall(command.encode() + b"\n")

    def close(self) -> None:
        """The client goes on alone."""
        self._reader.close()
        self._socket.close()


def _connected(path: Path) -> socket.socket:
    """As soon as the client listens."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE)

    def connects() -> bool:
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    eventually(connects, 5, "the client listens")
    return connection
