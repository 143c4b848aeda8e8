"""A real wireguard-go behind the lab's cables, and the kind wireguard on the other end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from supervisor.config.validation import validated
from tests.lab.network import CUSTOMER, LabNetwork
from tests.lab.wireguard import WireGuardServer
from tests.tunnels.driver import ClientRun
from tunnels.base import Placement
from tunnels.kinds.wireguard.kind import WIREGUARD


class WireGuardSite:
    """The lab's cables, a WireGuard server, and us."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.network = directory, LabNetwork()
        self.server = WireGuardServer(self.network["customer"], directory)
        self.server.start()
        self.device = f"t-{os.getpid()}"  # sockets of all namespaces lie in one directory
        self._runs = 0

    def start(self, config: str | bytes, suffix: str = "") -> ClientRun:
        """Begin a session. Those with different suffixes may run at the same time."""
        self._runs += 1
        data = config if isinstance(config, bytes) else config.encode()
        directory = self.directory / f"run-{self._runs}"
        directory.mkdir(mode=0o700)
        tunnel = validated(
            WIREGUARD.options,
            {"name": "acme", "kind": "wireguard", "config": "acme.conf", "destinations": ["10.77.0.0/24"]},
        )
        place = Placement(directory, self.device + suffix, 0, sys.executable)
        return ClientRun(WIREGUARD, tunnel, place, {"config": data}, self.network["facilitator"])

    def config(self, **keys: bytes) -> str:
        return self.server.client_config(str(CUSTOMER), **keys)

    def addresses(self) -> str:
        return (
            self.network["facilitator"]
            .run("ip", "-o", "address", "show", "dev", self.device, check=False)
            .stdout
        )

    def close(self) -> None:
        self.server.stop()
        self.network.remove()
