"""Real etcd and Consul servers for tests: on loopback, or in a namespace, with data that is thrown away."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from tests.lab.pki import KeyPair
from tests.lab.wait import eventually

REPOSITORY = Path(__file__).resolve().parents[2]


def program(name: str) -> str | None:
    """Where this engine's program is; None: not on this machine."""
    unpacked = REPOSITORY / ".cache/consul/usr/bin" / name  # by .ci/consul
    return shutil.which(name) or (str(unpacked) if unpacked.exists() else None)


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1 that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@dataclass(frozen=True, slots=True)
class EngineTls:
    """Mutual TLS: what the server shows, and who must have signed its clients."""

    server: KeyPair
    ca: Path


@dataclass
class LoopbackEtcd:
    """Etcd servers on loopback. `addresses`: host and client port of each; the peer port is one higher."""

    directory: Path
    addresses: Sequence[tuple[str, int]]
    tls: EngineTls | None = None
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @classmethod
    def local(cls, directory: Path, count: int = 1, tls: EngineTls | None = None) -> LoopbackEtcd:
        """On 127.0.0.1."""
        ports: list[int] = []
        while len(ports) < count:
            ports += [port for port in free_ports(count * 2) if _pair_free(port)][: count - len(ports)]
        return cls(directory, [("127.0.0.1", port) for port in ports], tls=tls)

    @property
    def endpoints(self) -> list[str]:
        """The client URLs."""
        return [f"{self._scheme}://{host}:{port}" for host, port in self.addresses]

    @property
    def _scheme(self) -> str:
        return "http" if self.tls is None else "https"

    def start(self) -> None:
        """All members; returns when they have elected a leader."""
        for number in range(len(self.addresses)):
            self.launch(number)
        eventually(lambda: self.leader() is not None, 30.0, "etcd has a leader")

    def launch(self, number: int) -> None:
        """One member, anew or again (it keeps its data)."""
        host, port = self.addresses[number]
        members = [f"m{n}=http://{each}:{peer + 1}" for n, (each, peer) in enumerate(self.addresses)]
        arguments = [
            *("--name", f"m{number}", "--data-dir", str(self.directory / f"etcd{number}")),
            *("--listen-client-urls", self.endpoints[number]),
            *("--advertise-client-urls", self.endpoints[number]),
            *("--listen-peer-urls", f"http://{host}:{port + 1}"),
            *("--initial-advertise-peer-urls", f"http://{host}:{port + 1}"),
            *("--initial-cluster", ",".join(members), "--initial-cluster-state", "new"),
            *("--logger", "zap", "--log-level", "error"),
        ]
        if self.tls is not None:
            arguments += ["--cert-file", str(self.tls.server.certificate), "--key-file"]
            arguments += [str(self.tls.server.key), "--client-cert-auth", "--trusted-ca-file"]
            arguments += [str(self.tls.ca)]
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / f"etcd{number}.log").open("ab") as log:
            self.processes[number] = subprocess.Popen(["etcd", *arguments], stdout=log, stderr=log)

    def leader(self) -> int | None:
        """The number of the leading member; None: there is none, or nobody who can be asked."""
        for number, (host, port) in enumerate(self.addresses):
            if number not in self.processes or self.processes[number].poll() is not None:
                continue
            if self.tls is not None:
                return number if _listens(host, port) else None
            status = _asked(host, port, "/v3/maintenance/status")
            if status is not None and status.get("leader") == status["header"]["member_id"]:
                return number
        return None

    def kill(self, number: int) -> None:
        """SIGKILL."""
        process = self.processes.pop(number)
        process.kill()
        process.wait()

    def signal(self, signum: signal.Signals) -> None:
        """Send it to all members: SIGSTOP and SIGCONT make the service silent for a while."""
        for process in self.processes.values():
            os.kill(process.pid, signum)

    def stop(self) -> None:
        """Kill what runs."""
        for number in list(self.processes):
            self.kill(number)


@dataclass
class ConsulAgent:
    """One Consul server in development mode, with ACLs if it has a `token`."""

    directory: Path
    port: int
    token: str | None = None
    shortest_ttl: float = 1.0  # seconds; Consul's own limit of 10 s is raised by nobody but tests
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Of its HTTP API."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it has elected itself."""
        ports = free_ports(3)
        self.directory.mkdir(parents=True, exist_ok=True)
        settings: dict[str, object] = {
            "session_ttl_min": f"{self.shortest_ttl:g}s",
            "ports": {
                **dict(zip(("server", "serf_lan", "serf_wan"), ports, strict=True)),
                **{"http": self.port, "dns": -1, "grpc": -1},
            },
        }
        if self.token is not None:
            tokens = {"master": self.token}
            settings["acl"] = {"enabled": True, "default_policy": "deny", "tokens": tokens}
        (self.directory / "consul.json").write_text(json.dumps(settings))
        binary = program("consul")
        assert binary is not None
        command = [binary, "agent", "-dev", "-bind", "127.0.0.1", "-config-dir", str(self.directory)]
        with (self.directory / "consul.log").open("ab") as log:
            self.process = subprocess.Popen([*command, "-log-level", "warn"], stdout=log, stderr=log)
        eventually(self._ready, 30.0, "Consul has a leader and takes sessions")

    def _ready(self) -> bool:
        headers = {} if self.token is None else {"X-Consul-Token": self.token}
        path = "/v1/session/create"
        made = _asked("127.0.0.1", self.port, path, "PUT", headers)
        return made is not None

    def stop(self) -> None:
        """Kill it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def _pair_free(port: int) -> bool:
    try:
        for each in (port, port + 1):
            socket.create_server(("127.0.0.1", each)).close()
    except (OSError, OverflowError):
        return False
    return True


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1.0).close()
    except OSError:
        return False
    return True


def _asked(
    host: str, port: int, path: str, method: str = "POST", headers: Mapping[str, str] | None = None
) -> dict[str, Any] | None:
    connection = HTTPConnection(host, port, timeout=2.0)
    try:
        connection.request(method, path, b"{}", dict(headers or {}))
        answer = connection.getresponse()
        body = answer.read()
        return json.loads(body) if answer.status == 200 else None
    except (OSError, HTTPException, ValueError):
        return None
    finally:
        connection.close()
