"""OpenVPN servers with their sidecars, staff clients and a place for the session service, in namespaces.

outside (clients, service) -+- node a (openvpn, sidecar)
                            +- node b (openvpn, sidecar)
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hub.core.openvpn.profile import ClientProfile, profile_text
from hub.sidecar.control import ControlFailed, ask_sidecar
from hub.sidecar.directory import CONTROL
from tests.hub import lab_service
from tests.hub.lab_service import HUB, LabService
from tests.lab.pki import Authority
from tests.lab.servers import Server
from tests.lab.wait import PATIENCE, eventually
from tests.netns import Namespace, link

NODES = ("a", "b")
INSIDE = "10.8.0.1"  # every server's own address in the clients' network
PORT = 1194
_UP = "Initialization Sequence Completed"
_PINGED = re.compile(r"(\d+) packets transmitted, (\d+) received")


class HubNode:
    """An OpenVPN server and the process that decides its logins, on a host of their own."""

    def __init__(self, name: str, number: int, lab: HubLab) -> None:
        self.name, self._lab = name, lab
        self.namespace = Namespace(f"node-{name}")
        self.address, self.service_address = f"10.200.{number}.1", f"10.200.{number}.2"
        link(self.namespace, "wan", lab.outside, f"node{number}")
        self.ipv6 = lab.protocol.endswith("6")
        self.address6 = f"fd00:200:{number}::1"
        cable = (
            (self.namespace, "wan", "1", self.address),
            (lab.outside, f"node{number}", "2", self.service_address),
        )
        for namespace, device, host, address in cable:
            namespace.run("ip", "address", "add", f"{address}/24", "dev", device)
            namespace.run("ip", "address", "add", f"fd00:200:{number}::{host}/64", "dev", device, "nodad")
        self.directory = lab.directory / name
        self.directory.mkdir(mode=0o700)
        self.management = self.directory / "management.sock"
        self.openvpn = OpenVpnNode(self, lab)
        self.config = lab.directory / f"hub-{name}.yaml"
        self._write_config()
        self._sidecar: subprocess.Popen[bytes] | None = None
        self.log = lab.directory / f"sidecar-{name}.log"

    @property
    def remote(self) -> str:
        """Where clients find it."""
        return self.address6 if self.ipv6 else self.address

    # --- the sidecar ---

    def start_sidecar(self, wait: bool = True) -> None:
        """Start it; `wait` until it decides logins."""
        with self.log.open("ab") as output:
            argv = self.namespace.argv(HUB, "sidecar", "-c", str(self.config))
            self._sidecar = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        if wait:
            eventually(self.decides, 10, f"the sidecar of {self.name} decides logins")

    def decides(self) -> bool:
        """It knows its server's clients."""
        assert self._sidecar is not None
        assert self._sidecar.poll() is None, f"the sidecar ended: {self.log.read_text()}"
        return bool(self.status().get("connected"))

    def status(self) -> dict[str, Any]:
        """What the sidecar says of itself; empty while it does not answer."""
        try:
            return self.ask(command="status")
        except ControlFailed:
            return {}

    @property
    def phases(self) -> dict[str, int]:
        """How many clients are in each phase, by its name."""
        return dict(self.status()["clients"])

    def ask(self, **request: object) -> dict[str, Any]:
        """As an operator on this host."""
        return ask_sidecar(self.directory / CONTROL, request)

    def end_sidecar(self, how: signal.Signals = signal.SIGKILL) -> int:
        """Kill it; the exit code."""
        assert self._sidecar is not None
        self._sidecar.send_signal(how)
        return self._sidecar.wait(PATIENCE)

    @property
    def logged(self) -> list[dict[str, object]]:
        """What the sidecars have logged."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def start(self) -> None:
        """OpenVPN and the sidecar; it serves."""
        self.openvpn.start()
        self.start_sidecar()

    def close(self) -> None:
        """End both."""
        if self._sidecar is not None and self._sidecar.poll() is None:
            self.end_sidecar()
        self.openvpn.kill()
        self.namespace.remove()

    def _write_config(self) -> None:
        pair = self._lab.service_authority.issue(f"node-{self.name}", "clientAuth")
        tls = {"certificate": str(pair.certificate), "key": str(pair.key)}
        ca = str(self._lab.service_authority.root.certificate)
        url = f"https://{self.service_address}:{lab_service.PORT}"
        sidecar = {
            "management": str(self.management),
            "sessions": {"url": url, "tls": tls | {"ca": ca}},
            **self._lab.settings,
        }
        self.config.write_text(json.dumps({"sidecar": sidecar}))


class OpenVpnNode(Server):
    """The OpenVPN server of a node. It waits in `hold` until a sidecar is there."""

    def __init__(self, node: HubNode, lab: HubLab) -> None:
        self._socket = node.management
        server = lab.staff_authority.issue(f"server-{node.name}", "serverAuth")
        self.config = lab.directory / f"server-{node.name}.conf"
        self.config.write_text(
            textwrap.dedent(f"""\
            port {PORT}
            proto {lab.protocol}
            dev tun-hub
            dev-type tun
            topology subnet
            server 10.8.0.0 255.255.0.0 nopool
            ca {lab.staff_authority.root.certificate}
            cert {server.certificate}
            key {server.key}
            dh none
            keepalive 5 20
            {"explicit-exit-notify 2" if lab.protocol.startswith("udp") else ""}
            reneg-sec 0
            hand-window 180
            auth-user-pass-optional
            duplicate-cn
            management {node.management} unix
            management-client-auth
            management-hold
            max-clients 4000
            verb 3
            """)
            + "".join(f"{option}\n" for option in lab.options)
        )
        argv = ("openvpn", "--config", str(self.config))
        super().__init__(
            node.namespace, lab.directory, f"openvpn-{node.name}", argv, "MANAGEMENT: unix domain"
        )

    def start(self) -> None:
        """Start it; a killed one has left its socket."""
        self._socket.unlink(missing_ok=True)
        super().start()

    @property
    def ended(self) -> bool:
        """The process is gone."""
        return self._process is None or self._process.poll() is not None


class StaffClient(Server):
    """A laptop's OpenVPN client with the profile that `facilitator-hub profile` writes."""

    def __init__(self, lab: HubLab, person: str, nodes: Sequence[str], more: Sequence[str] = ()) -> None:
        pair = lab.staff_authority.directory / person
        if not pair.with_suffix(".crt").exists():
            lab.staff_authority.issue(person, "clientAuth")
        profile = ClientProfile(
            remotes=tuple((lab.nodes[name].remote, PORT) for name in nodes),
            protocol=lab.protocol.removesuffix("-server"),
            ca=lab.staff_authority.root.certificate.read_text(),
            certificate=pair.with_suffix(".crt").read_text(),
            key=pair.with_suffix(".key").read_text(),
        )
        lab.number += 1
        name = f"{person}-{lab.number}"
        self.person, self.interface = person, f"tun-{lab.number}"
        path = lab.directory / f"{name}.ovpn"
        path.write_text(profile_text(profile))
        path.chmod(0o600)
        argv = (
            "openvpn", "--config", str(path), "--dev", self.interface, "--dev-type", "tun", "--verb", "3", *more
        )  # fmt: skip
        super().__init__(lab.outside, lab.directory, name, argv, _UP)

    def begin(self) -> None:
        """Start it, and do not wait for its login."""
        with self.log.open("w") as output:
            self._process = self.namespace.popen(
                *self.argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    @property
    def up_count(self) -> int:
        """How often it has come up: one more after each restart."""
        return self.said.count(_UP)

    @property
    def said(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace")

    @property
    def ended(self) -> bool:
        """The process is gone."""
        return self._process is None or self._process.poll() is not None

    def pings(self, count: int = 1) -> bool:
        """The server's inside answers."""
        argv = ("ping", "-q", "-c", str(count), "-W", "1", "-i", "0.2", "-I", self.interface, INSIDE)
        return self.namespace.run(*argv, check=False).returncode == 0

    @contextlib.contextmanager
    def pinging(self, every: float = 0.2) -> Iterator[list[int]]:
        """Ping meanwhile; afterwards the list holds how many went out and came back."""
        argv = ("ping", "-q", "-i", str(every), "-I", self.interface, INSIDE)
        ping = self.namespace.popen(*argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        counted: list[int] = []
        try:
            yield counted
        finally:
            ping.send_signal(signal.SIGINT)
            text, _ = ping.communicate(timeout=PATIENCE)
            found = _PINGED.search(text)
            assert found is not None, text
            counted += map(int, found.groups())


class HubLab:
    """`with HubLab() as lab`: two nodes, nothing runs. `options`: further lines of the servers' files;
    `protocol`: their `proto`.
    """

    def __init__(self, options: Sequence[str] = (), protocol: str = "udp", **settings: object) -> None:
        self.options, self.protocol = options, protocol
        self.settings = {"heartbeat": "1s"} | settings
        self.number = 0
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> HubLab:
        with contextlib.ExitStack() as stack:
            self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hub-lab-")))
            self.outside = Namespace("outside")
            stack.callback(self.outside.remove)
            self.staff_authority = Authority(_made(self.directory / "staff"))
            self.service_authority = Authority(_made(self.directory / "service"))
            self.nodes: dict[str, HubNode] = {}
            for number, name in enumerate(NODES, start=1):
                self.nodes[name] = HubNode(name, number, self)
                stack.callback(self.nodes[name].close)
            self.clients: list[StaffClient] = []
            stack.callback(self.end_clients)
            addresses = tuple(node.service_address for node in self.nodes.values())
            self.service = LabService(self.outside, self.directory, self.service_authority, addresses)
            stack.callback(self.service.kill)
            self._closing = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.close()

    def client(self, person: str, nodes: Sequence[str] = NODES, more: Sequence[str] = ()) -> StaffClient:
        """A client of this person that does not run yet."""
        client = StaffClient(self, person, nodes, more)
        self.clients.append(client)
        return client

    def end_clients(self) -> None:
        """All clients that still run."""
        for client in self.clients:
            client.kill()
        self.clients.clear()


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory
