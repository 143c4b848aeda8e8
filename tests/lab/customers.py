"""Every kind of tunnel at once: a customer with a real server for each, all of them in front of the same lab.

All but sshuttle's lead to the one data centre, so staff reach it under another presented network through each
of them.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import psutil
import pyotp

from tests.lab import ocserv, strongswan
from tests.lab.config import Config
from tests.lab.daemon import LabDaemon
from tests.lab.lab import Lab
from tests.lab.network import CLOUD_WEB, CUSTOMER, DATACENTRE, DATACENTRE_WEB
from tests.lab.ocserv import OcservServer
from tests.lab.pki import Authority
from tests.lab.servers import PASSWORD, OpenVpnServer, Server, ServerLogin
from tests.lab.strongswan import StrongSwanServer
from tests.lab.wireguard import WireGuardServer

ACCOUNT = "svc-facilitator"
SCRIPT = (  # a command as people write it: it says what it does, and becomes the client
    'echo "dialling $2"; exec openvpn --config "$1" --dev "$2" --dev-type tun --nobind --route-noexec '
    "--resolv-retry 1"
)


@dataclass(frozen=True)
class Customer:
    """One tunnel of ours, and the customer's end of it."""

    name: str  # of the tunnel
    settings: dict[str, Any]  # of the tunnel
    client: str  # the program that carries its packets
    server: Server
    throw_out: Callable[[], object]  # its administrator ends our session
    web: IPv4Address  # where staff find a web server through it

    def client_pid(self, daemon: LabDaemon) -> int:
        """The client's process, which is the session's own or one below it."""
        session = psutil.Process(daemon.tunnel(self.name)["session"]["pid"])
        family = (session, *session.children(recursive=True))
        return next(process.pid for process in family if process.name() == self.client)


@dataclass
class Customers:
    """Those of a lab, in the order in which they came. Servers run until `close`."""

    lab: Lab
    all: list[Customer] = field(default_factory=list)
    _closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __post_init__(self) -> None:
        self.directory = self.lab.directory / "customers"
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir()
        self.authority = Authority(self.directory)

    def named(self, name: str) -> Customer:
        """The one whose tunnel is called so."""
        return next(customer for customer in self.all if customer.name == name)

    def close(self) -> None:
        """Kill the servers that the lab has not had before."""
        self._closing.close()

    def config(self, config: Config) -> Config:
        """The configuration with a tunnel to each of them."""
        return {**config, "tunnels": {customer.name: customer.settings for customer in self.all}}

    def secrets(self) -> list[str]:
        """What may be found nowhere else: passwords, seeds, shared keys."""
        files = [
            path
            for path in self.directory.glob("*-*")
            if path.is_file() and re.search(r"-(password|seed|secret|key)$", path.name)
        ]
        keys = [
            re.findall(r"(?:Private|Preshared)Key = (\S+)", path.read_text())
            for path in self.directory.glob("wireguard.conf")
        ]
        return [*(path.read_text().strip() for path in files), *itertools.chain(*keys)]

    # --- whom there may be
    # ------------------------------------------------------------------------------------------------------

    def openvpn(self, login: ServerLogin = ServerLogin.CERTIFICATE) -> None:
        """With this login; a code comes from a seed."""
        lab, server = (
            self.lab,
            self.lab.openvpn if login is ServerLogin.CERTIFICATE else self.lab.login_server(login),
        )
        options: dict[str, Any] = {"config": str(lab.directory / "acme.ovpn")}
        if login is not ServerLogin.CERTIFICATE:
            account = {
                "username": ACCOUNT,
                "password": self._secret(f"openvpn-{login.value}-password", PASSWORD),
            }
            if login is not ServerLogin.PASSWORD:
                server.change_seed(seed := pyotp.random_base32())
                account["totp"] = self._secret(f"openvpn-{login.value}-seed", seed)
            options = {"config": str(lab.directory / f"acme-{login.value}.ovpn"), "login": account}
        self._add("openvpn", login.value, options, "openvpn", server, server.disconnect)

    def openconnect(self, auth: str = "password", **options: object) -> None:
        """AnyConnect with a password, with a password and a one-time `code`, or with a `certificate`.
        `options` of the server.
        """
        number = ("password", "code", "certificate").index(auth)
        networks = {
            "ipv4-network": f"10.79.{128 + number}.0/24",
            "ipv6-network": f"fd00:78:0:{1 + number}::/64",
        }
        own = {"tcp-port": 443 + number, "udp-port": 443 + number, **networks}
        server = OcservServer(
            self.lab.network["customer"], self.directory, self.authority, CUSTOMER, auth, **{**own, **options}
        )
        self._serve(server)
        settings: dict[str, Any] = {
            "server": f"{CUSTOMER}:{own['tcp-port']}",
            "server_certificate": server.pin,
        }
        if auth == "certificate":
            settings["certificate"] = self._secret(
                "openconnect-certificate", self.certificate(self.authority)
            )["file"]
        else:
            settings["login"] = {
                "username": ocserv.USER,
                "password": self._secret(f"openconnect-{auth}-password", PASSWORD),
            }
        if auth == "code":
            settings["login"]["totp"] = self._secret("openconnect-seed", ocserv.TOTP)
        self._add("openconnect", auth, settings, "openconnect", server, server.throw_out)

    @staticmethod
    def certificate(authority: Authority) -> str:
        """Ours, with its key, as this authority issues it."""
        mine = authority.issue(ACCOUNT, "clientAuth")
        return mine.certificate.read_text() + mine.key.read_text().rstrip()

    def wireguard(self) -> None:
        """It ends a session by forgetting its keys, without a word."""
        server = WireGuardServer(self.lab.network["customer"], self.directory)
        self._serve(server)

        def forget() -> None:
            server.throw_out()
            server.let_in()

        # The sockets of wireguard-go lie in one directory, whatever the network namespace.
        settings = {
            "config": self._secret("wireguard.conf", server.client_config(str(CUSTOMER)))["file"],
            "device": f"t-{server.device}",
        }
        self._add("wireguard", "", settings, "wireguard-go", server, forget)

    def ipsec(self, patient: bool = False) -> None:
        """One gateway for vpnc and strongSwan. `patient`: it keeps silent clients as long as real ones do."""
        server = StrongSwanServer(
            self.lab.network["customer"], self.directory, self.authority, CUSTOMER, patient
        )
        self._serve(server)
        vpnc = {
            "config": self._secret("cisco.vpnc", server.vpnc_config())["file"],
            "group_secret": self._secret("group-secret", strongswan.GROUP_SECRET),
            "login": {"username": strongswan.USER, "password": self._secret("vpnc-password", PASSWORD)},
        }
        self._add("vpnc", "", vpnc, "vpnc", server, lambda: server.end_sessions("xauth"))
        key = self._secret("pre-shared-key", strongswan.PRESHARED_KEY)
        swan = {"config": self._secret("swanctl.conf", server.swanctl_config("psk"))["file"], "psk": key}
        self._add("strongswan", "", swan, "charon-systemd", server, lambda: server.end_sessions("psk"))

    def sshuttle(self) -> None:
        """Our own cloud."""
        settings = self.lab.configuration()["tunnels"]["own-cloud"]
        self.all.append(
            Customer("sshuttle", settings, "ssh", self.lab.sshd, self.lab.sshd.kill_sessions, CLOUD_WEB)
        )

    def command(self) -> None:
        """A script of which we know nothing but what it says; in truth one more OpenVPN.
        `command-clients/DEFAULT`: what it assigns.
        """
        clients = self.directory / "command-clients"
        clients.mkdir()
        options = (f"client-config-dir {clients}",)
        server = OpenVpnServer(
            self.lab.network["customer"],
            self.directory,
            self.authority,
            number=len(ServerLogin),
            options=options,
        )
        self._serve(server)
        profile = self._secret("command.ovpn", server.client_config(str(CUSTOMER)))["file"]
        settings = {
            "argv": ["sh", "-c", SCRIPT, "dial", profile, "{device}"],
            "up": {"line": "Initialization Sequence Completed"},
            "permanent": ["(?P<auth>AUTH_FAILED)"],
            "transient": ["(?P<peer_closed>server-pushed-connection-reset)"],
        }
        self._add("command", "", settings, "openvpn", server, server.disconnect)

    # --- their making
    # ------------------------------------------------------------------------------------------------------

    def _serve(self, server: Server) -> None:
        self._closing.callback(server.kill)
        server.start()

    def _add(
        self,
        kind: str,
        variant: str,
        options: dict[str, Any],
        client: str,
        server: Server,
        throw_out: Callable[[], object],
    ) -> None:
        place = len(self.all)
        settings = {
            "kind": kind,
            "destinations": [{"network": str(DATACENTRE), "presented_as": f"100.64.{place}.0/24"}],
            "probe": {"targets": [f"tcp://{DATACENTRE_WEB}:80"]},
            **options,
        }
        name = f"{kind}-{variant}" if variant else kind
        self.all.append(
            Customer(name, settings, client, server, throw_out, IPv4Address(f"100.64.{place}.10"))
        )

    def _secret(self, name: str, value: str) -> dict[str, str]:
        """A file for the configuration."""
        path = Path("customers") / name
        self.lab.set_secret(str(path), f"{value}\n")
        return {"file": str(self.lab.directory / path)}


@contextlib.contextmanager
def customers(lab: Lab) -> Iterator[Customers]:
    """Nobody yet; whoever is added ends with the context."""
    made = Customers(lab)
    try:
        yield made
    finally:
        made.close()
