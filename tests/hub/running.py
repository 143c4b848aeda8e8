"""A running session service with its own CA, and what asks it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from hub.config.model import SessionsSettings
from hub.config.reading import section
from hub.service.run import HubDaemon
from tests.control.certificates import ControlAuthority

PEOPLE: dict[str, Any] = {
    "alice": {"groups": ["engineers"]},
    "bob": None,
    "tom": {"method": "totp"},
    "nora": {"method": "notification"},
    "old": {"state": "disabled"},
}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


class HubSetup:
    """Configuration, people and certificates in a directory."""

    def __init__(self, directory: Path, **sessions: object) -> None:
        self.directory = directory
        self.command = (sys.executable, "-m", "hub")
        self.authority = ControlAuthority(directory)
        self.certificates = {
            name: self.authority.sign(f"CN={name}", name)
            for name in ("service", "hub-a", "hub-b", "vpn1", "ops", "alice")
        }
        self.port, self.http, self.pages = free_port(), free_port(), free_port()
        self.people = directory / "people.yaml"
        self.write_people(PEOPLE)
        (directory / "seeds.yaml").write_text("tom: GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ\n")
        certificate, key = self.certificates["service"]
        shown, shown_key = self.certificates["ops"]
        self.config = directory / "config.yaml"
        document = {
            "sessions": {
                "listen": f"127.0.0.1:{self.port}",
                "http": f"127.0.0.1:{self.http}",
                "tls": {
                    "certificate": str(certificate), "key": str(key), "client_ca": str(self.authority.file),
                    "roles": {
                        "sidecar": ["CN=hub-a", "CN=hub-b"], "facilitator": ["CN=vpn1"], "admin": ["CN=ops"],
                    },
                },
                "database": f"sqlite://{directory}/sessions.db",
                "addresses": {"networks": ["10.8.0.0/16"]},
                "people": {"file": "people.yaml"},
                "login": {"totp": {"seeds": {"file": "seeds.yaml"}}},
                **sessions,
            },
            "admin": {
                "url": f"https://127.0.0.1:{self.port}",
                "tls": {"certificate": str(shown), "key": str(shown_key), "ca": str(self.authority.file)},
            },
        }  # fmt: skip
        self.config.write_text(yaml.safe_dump(document))

    def write_people(self, people: dict[str, Any]) -> None:
        """Replace the file of people."""
        draft = self.people.with_suffix(".new")
        draft.write_text(yaml.safe_dump({"people": people}))
        draft.replace(self.people)

    def settings(self) -> SessionsSettings:
        """Those of the service."""
        found = section(self.config.read_text(), str(self.config), "sessions", SessionsSettings)
        assert found is not None
        return found

    def tls(self, name: str | None) -> ssl.SSLContext:
        """What a client with this certificate uses."""
        return self.authority.client(self.certificates[name] if name is not None else None)

    def client(self, name: str | None) -> aiohttp.ClientSession:
        """A client of the API."""
        return aiohttp.ClientSession(
            f"https://127.0.0.1:{self.port}", connector=aiohttp.TCPConnector(ssl=self.tls(name))
        )

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[HubDaemon]:
        """The service in this process."""
        stop, ready = asyncio.Event(), asyncio.Event()
        daemon = HubDaemon(self.settings(), self.directory)
        running = asyncio.create_task(daemon.run(stop, lambda port: ready.set()))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
        try:
            if ready.is_set():
                yield daemon
        finally:
            waiting.cancel()
            stop.set()
            await running


async def post(client: aiohttp.ClientSession, path: str, document: Any) -> tuple[int, Any]:
    """Status and document; `document`: one of the API."""
    body = document if isinstance(document, str) else document.model_dump_json()
    async with client.post(path, data=body) as response:
        text = await response.text()
        return response.status, json.loads(text) if text else None


async def get(client: aiohttp.ClientSession, path: str) -> tuple[int, Any]:
    """Status and document."""
    async with client.get(path) as response:
        text = await response.text()
        return response.status, json.loads(text) if text else None
