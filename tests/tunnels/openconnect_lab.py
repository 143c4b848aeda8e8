"""A real ocserv in a namespace, and the kind openconnect on the other end of a cable."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from pathlib import Path

from tests.lab.ocserv import USER, OcservServer
from tests.lab.pki import Authority
from tests.lab.servers import PASSWORD
from tests.netns import Namespace, link
from tests.tunnels.driver import Run
from tunnels.base import Place
from tunnels.openconnect import OPENCONNECT

CLIENT, SERVER, INSIDE = "198.18.3.1", "198.18.3.2", "10.77.0.10"
DEVICE = "t-acme"


class OpenConnectLab:
    """Client and server namespaces and the certificates; a server runs for as long as a test wants it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority, self.stranger = Authority(directory), Authority(_made(directory / "stranger"))
        self.client, self.server = Namespace("c"), Namespace("s")
        link(self.client, "eth0", self.server, "eth0")
        self.client.run("ip", "address", "add", f"{CLIENT}/24", "dev", "eth0")
        self.server.run("ip", "address", "add", f"{SERVER}/24", "dev", "eth0")
        self.server.run("ip", "address", "add", f"{INSIDE}/32", "dev", "lo")
        self._runs = 0

    def close(self) -> None:
        self.client.remove()
        self.server.remove()

    @contextlib.contextmanager
    def serving(self, auth: str = "password", **options: object) -> Iterator[OcservServer]:
        """An ocserv with these settings."""
        self._runs += 1
        directory = _made(self.directory / f"server{self._runs}")
        server = OcservServer(self.server, directory, self.authority, IPv4Address(SERVER), auth, **options)
        server.start()
        try:
            yield server
        finally:
            server.kill()

    def run(self, server: OcservServer | None = None, inputs: Mapping[str, bytes] | None = None, *, password: str = PASSWORD,
            **settings: object) -> Run:
        """Start the kind in the client's namespace; with `server`, its key is pinned."""
        self._runs += 1
        place = Place(_made(self.directory / f"run{self._runs}", 0o700), DEVICE, 0, sys.executable)
        tunnel = OPENCONNECT.options.model_validate({
            "name": "acme", "destinations": ["10.77.0.0/24"], "server": SERVER, "login": {"username": USER},
            **({} if server is None else {"server_certificate": server.pin}), **settings,
        })
        return Run(OPENCONNECT, tunnel, place, {"password": password.encode() + b"\n", **(inputs or {})}, self.client)

    def reaches(self) -> bool:
        """Does a packet go through the tunnel and back?"""
        self.client.run("ip", "route", "replace", f"{INSIDE}/32", "dev", DEVICE)
        return self.client.run("ping", "-c", "1", "-W", "3", INSIDE, check=False).returncode == 0


def _made(directory: Path, mode: int = 0o755) -> Path:
    directory.mkdir(mode=mode)
    return directory
