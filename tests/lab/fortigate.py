"""The customer's FortiGate: a double that is strict about the login, and has no PPP."""

from __future__ import annotations

import hashlib
import ssl
from ipaddress import IPv4Address
from pathlib import Path

from tests.lab.pki import Authority
from tests.lab.servers import Server, program
from tests.netns import Namespace

PORT = 10443


class FortiGate(Server):
    """Listens on an address of its namespace."""

    def __init__(
        self, namespace: Namespace, directory: Path, authority: Authority, address: IPv4Address
    ) -> None:
        identity = authority.issue("fortigate", "serverAuth")
        self.digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(identity.certificate.read_text())).hexdigest()
        argv = program("fortigate", str(identity.certificate), str(identity.key), str(address), str(PORT))
        super().__init__(namespace, directory, "fortigate", argv, "serving")

    @property
    def seen(self) -> list[str]:
        """What it has judged: `accepted`, `refused`, `asked`, `tunnel`, or `wrong ...` for what no
        FortiGate would get.
        """
        return self.log.read_text().splitlines()[1:]
