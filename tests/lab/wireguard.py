"""The customer's WireGuard server: a real wireguard-go, configured over its UAPI socket."""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import socket
import subprocess
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path

from tests.lab.network import DATACENTRE, DATACENTRE6
from tests.lab.servers import Server
from tests.netns import Namespace

PORT = 51820
SERVER_ADDRESS, CLIENT_ADDRESS = "10.79.86.1", "10.79.86.2"
SERVER_ADDRESS6, CLIENT_ADDRESS6 = "fd00:79:86::1", "fd00:79:86::2"


class Key:
    """A key pair."""

    def __init__(self) -> None:
        pem = subprocess.run(
            ["openssl", "genpkey", "-algorithm", "X25519"], check=True, capture_output=True
        ).stdout
        self.private = _last_bytes("pkey", pem)
        self.public = _last_bytes("pkey -pubout", pem)


def text(key: bytes) -> str:
    """A key as it stands in a file."""
    return base64.b64encode(key).decode()


class WireGuardServer(Server):
    """Knows one client, which it lets into the data centre."""

    def __init__(self, namespace: Namespace, directory: Path, *, port: int = PORT) -> None:
        self.key, self.client, self.preshared, self.port = Key(), Key(), os.urandom(32), port
        self.device = f"wg{secrets.token_hex(3)}"  # sockets of all namespaces lie in one directory
        argv = ("env", "LOG_LEVEL=verbose", "wireguard-go", "-f", self.device)
        super().__init__(namespace, directory, f"wireguard-{port}", argv, "UAPI listener started")

    def start(self) -> None:
        """Start it and wait until it serves."""
        super().start()
        self.say(f"private_key={self.key.private.hex()}", f"listen_port={self.port}")
        self.let_in()
        for address in (f"{SERVER_ADDRESS}/24", f"{SERVER_ADDRESS6}/64"):
            self.namespace.run(
                "ip", "address", "add", address, "dev", self.device, *(["nodad"] if ":" in address else [])
            )
        self.namespace.run("ip", "link", "set", self.device, "up")

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        super().kill()
        Path(f"/var/run/wireguard/{self.device}.sock").unlink(missing_ok=True)

    def let_in(
        self, preshared: bytes | None = None, addresses: Sequence[str] = (CLIENT_ADDRESS, CLIENT_ADDRESS6)
    ) -> None:
        """The client's key is known, and the preshared one; it may send from these addresses."""
        key = (preshared or self.preshared).hex()
        allowed = (f"allowed_ip={ip_network(address)}" for address in addresses)
        self.say(
            f"public_key={self.client.public.hex()}",
            f"preshared_key={key}",
            "replace_allowed_ips=true",
            *allowed,
        )

    def throw_out(self) -> None:
        """The client's key is not known any more."""
        self.say(f"public_key={self.client.public.hex()}", "remove=true")

    @property
    def attempts(self) -> int:
        """Handshakes that clients have begun, whatever came of them."""
        return self.log.read_text(errors="replace").count("Received handshake initiation")

    def client_config(
        self, address: str, *, preshared: bytes | None = None, private: bytes | None = None
    ) -> str:
        """What the customer's administrator sends us."""
        return (
            f"[Interface]\nPrivateKey = {text(private or self.client.private)}\nAddress = "
            f"{CLIENT_ADDRESS}/24, {CLIENT_ADDRESS6}/64\n"
            f"DNS = 10.77.0.53\nPostUp = touch /tmp/never\n\n[Peer]\n# the data centre\nPublicKey = "
            f"{text(self.key.public)}\n"
            f"PresharedKey = {text(preshared or self.preshared)}\nEndpoint = {address}:{self.port}\n"
            f"AllowedIPs = {DATACENTRE}, {DATACENTRE6}, {SERVER_ADDRESS}/32\nPersistentKeepalive = 25\n"
        )

    def say(self, *lines: str) -> str:
        """Change its configuration; what it answers."""
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
            connection.connect(f"/var/run/wireguard/{self.device}.sock")
            connection.sendall("".join(f"{line}\n" for line in ("set=1", *lines, "")).encode())
            answer = connection.recv(4096).decode()
        assert answer.startswith("errno=0"), answer
        return answer


def _last_bytes(command: str, pem: bytes) -> bytes:
    done = subprocess.run(
        ["openssl", *command.split(), "-outform", "DER"], input=pem, check=True, capture_output=True
    )
    return done.stdout[-32:]
