"""A real ocserv in a namespace, and the kind openconnect on the other end of a cable."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from pathlib import Path

from supervisor.config.validation import validated
from tests.lab.ocserv import USER, OcservServer
from tests.lab.pki import Authority, KeyPair
from tests.lab.servers import PASSWORD
from tests.netns import Namespace, link
from tests.tunnels.driver import ClientRun, wait_for
from tunnels.base import Keep, Placement
from tunnels.kinds.openconnect.kind import OPENCONNECT

CLIENT, SERVER, INSIDE = "198.18.3.1", "198.18.3.2", "10.77.0.10"
DEVICE = "t-acme"


@contextlib.contextmanager
def laboratory() -> Iterator[OpenConnectLab]:
    """A lab for some tests, in a directory with a short name (ocserv's sockets) that everybody may enter
    (its workers are nobody).
    """
    with tempfile.TemporaryDirectory(prefix="oc") as name:
        Path(name).chmod(0o755)
        lab = OpenConnectLab(Path(name))
        try:
            yield lab
        finally:
            lab.close()


class OpenConnectLab:
    """Client and server namespaces, the certificates, and one server at a time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority, self.stranger = Authority(directory), Authority(_made(directory / "stranger"))
        self.client, self.server = Namespace("c"), Namespace("s")
        link(self.client, "eth0", self.server, "eth0")
        for end, address, other in ((self.client, CLIENT, SERVER), (self.server, SERVER, CLIENT)):
            end.run(
                "ip", "address", "add", f"{address}/32", "dev", "eth0"
            )  # ocserv bans nobody of its own network
            end.run("ip", "route", "add", other, "dev", "eth0", "src", address)
        self.server.run("ip", "address", "add", f"{INSIDE}/32", "dev", "lo")
        self._running: tuple[object, OcservServer] | None = None
        self._made = 0

    def close(self) -> None:
        self.client.remove()
        self.server.remove()

    def serving(self, auth: str = "password", **options: object) -> OcservServer:
        """An ocserv with these settings; the one that runs if it has them."""
        wanted = (auth, sorted(options.items()))
        if self._running is not None and self._running[0] == wanted and self._running[1].running:
            return self._running[1]
        if self._running is not None:
            self._running[1].kill()
        server = OcservServer(
            self.server, self._directory("server"), self.authority, IPv4Address(SERVER), auth, **options
        )
        server.start()
        self._running = wanted, server
        return server

    def run(
        self,
        inputs: Mapping[str, bytes] | None = None,
        *,
        password: str = PASSWORD,
        prefix: tuple[str, ...] = (),
        **settings: object,
    ) -> ClientRun:
        """Start the kind in the client's namespace; the key of the server that runs is pinned."""
        pin = {} if self._running is None else {"server_certificate": self._running[1].pin}
        shows = (
            {"certificate": "/etc/facilitator/acme.pem", "key": {"file": "acme-key"}}
            if inputs and "certificate" in inputs
            else {}
        )
        tunnel = validated(
            OPENCONNECT.options,
            {
                "name": "acme",
                "destinations": ["10.77.0.0/24"],
                "server": SERVER,
                "login": {"username": USER},
                **pin,
                **shows,
                **settings,
            },
        )
        place = Placement(self._directory("run", 0o700), DEVICE, 0, sys.executable)
        return ClientRun(
            OPENCONNECT,
            tunnel,
            place,
            {"password": password.encode() + b"\n", **(inputs or {})},
            self.client,
            *prefix,
        )

    def resume(self, earlier: ClientRun) -> ClientRun:
        """Start it with what an earlier run has kept."""
        kept = next(
            each.secret for each in reversed(earlier.observations) if isinstance(each, Keep) and each.secret
        )
        return self.run({"kept": kept.encode()})

    def certificate(self, authority: Authority | None = None, *, expired: bool = False) -> dict[str, bytes]:
        """The inputs of a client that shows a certificate."""
        mine = (authority or self.authority).issue(USER, "clientAuth")
        certificate = self._expired(mine) if expired else mine.certificate.read_bytes()
        return {"certificate": certificate, "key": mine.key.read_bytes()}

    def _expired(self, mine: KeyPair) -> bytes:
        request = _openssl("req", "-new", "-key", str(mine.key), "-subj", f"/CN={USER}")
        root = self.authority.root
        return _openssl(
            "x509",
            "-req",
            "-CA",
            str(root.certificate),
            "-CAkey",
            str(root.key),
            "-set_serial",
            "7",
            "-days",
            "-1",
            input=request,
        )

    def reach(self) -> None:
        """Wait until a packet goes through the tunnel and back."""
        self.client.run("ip", "route", "replace", f"{INSIDE}/32", "dev", DEVICE)
        wait_for(
            lambda: self.client.run("ping", "-c", "1", "-W", "1", INSIDE, check=False).returncode == 0, 60
        )

    def _directory(self, name: str, mode: int = 0o755) -> Path:
        self._made += 1
        return _made(self.directory / f"{name}{self._made}", mode)


def _made(directory: Path, mode: int = 0o755) -> Path:
    directory.mkdir(mode=mode)
    return directory


def _openssl(*arguments: str, input: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *arguments], input=input, check=True, capture_output=True).stdout
