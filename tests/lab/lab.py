"""The lab as a whole: build it, break it, and take it away."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from types import FrameType

from tests.lab import network as net
from tests.lab import traffic
from tests.lab.config import ROUTING_KEY, Config, configuration
from tests.lab.daemon import LabDaemon, LabPagerDuty
from tests.lab.pki import Authority
from tests.lab.servers import PASSWORD, BastionServer, OpenVpnServer, Server, ServerLogin, web_server
from tests.netns import PREFIX, sweep


class Lab:
    """Everything running: `with Lab() as lab`. Root is needed; nothing outside the namespaces and one
    directory is touched.
    """

    def __init__(self) -> None:
        sweep()
        _sweep_directories()
        self.directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}-{os.getpid()}-"))
        self.directory.chmod(0o711)  # sshd reads the authorized keys as the account's own user
        self._secrets: set[str] = set()
        self._logins: dict[ServerLogin, OpenVpnServer] = {}
        self._closing = contextlib.ExitStack()
        self._closing.callback(shutil.rmtree, self.directory, ignore_errors=True)
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process, namespace and file of the lab. A second call does nothing."""
        self._closing.close()

    # --- what happens in it ---

    def request(self, url: str, timeout: float = 20.0) -> traffic.Reply:
        """One HTTP request from the laptop."""
        return traffic.request(self.network["laptop"], url, timeout)

    def outage(
        self,
        address: IPv4Address,
        fault: Callable[[], object],
        within: float = 30.0,
        until: Callable[[], object] = lambda: True,
    ) -> traffic.OutageMeter:
        """How long the laptop went without answers of a web server because of a fault; `until` it has had
        its effect.
        """
        return traffic.outage(self.network["laptop"], address, self.directory, fault, within, until)

    def poller(self, address: IPv4Address, patience: float = 0.5) -> traffic.Poller:
        """A laptop that asks a web server every 10 ms, and takes a request for lost after `patience`
        seconds.
        """
        return traffic.Poller(self.network["laptop"], address, self.directory, patience)

    def reachable_within(self, address: IPv4Address, seconds: float) -> float:
        """Seconds until the laptop's requests to a web server are answered without a miss; AssertionError
        when they never are.
        """
        with self.poller(address) as poller:
            start = time.monotonic()
            return poller.wait_settled(seconds, start) - start

    def flood(self, *addresses: IPv4Address, rate: int = 1000) -> traffic.Flood:
        """The laptop sends datagrams, `rate` a second to each address."""
        return traffic.Flood(self.network["laptop"], addresses, rate)

    def capture(self) -> traffic.Capture:
        """Watches the facilitator's uplink for packets of the destinations in clear."""
        return traffic.Capture(
            self.network["facilitator"], net.UPLINK, (*net.DESTINATIONS, *net.DESTINATIONS6), self.directory
        )

    def blackhole(self, site: IPv4Address) -> None:
        """The path to `CUSTOMER` or `BASTION` silently drops everything."""
        self.network.blackhole(site)

    def unblock(self, site: IPv4Address) -> None:
        """The path works again."""
        self.network.unblock(site)

    # --- the product in it ---

    def pagerduty(self) -> LabPagerDuty:
        """A fresh PagerDuty double beside the facilitator."""
        return LabPagerDuty(self.network["facilitator"], self.directory)

    def configuration(self, pagerduty: LabPagerDuty | None = None) -> Config:
        """The configuration of both tunnels, to be changed and given to `daemon`."""
        return configuration(self.directory, pagerduty.url if pagerduty else None)

    def daemon(self, config: Config, user: int | None = None) -> LabDaemon:
        """The facilitator with this configuration and a clean state; not started. `user`: not as root,
        with CAP_NET_ADMIN only.
        """
        if user is not None:
            for name in (*self._secrets, self.sshd.client_key.name):
                with contextlib.suppress(FileNotFoundError):  # of customers that are gone
                    os.chown(self.directory / name, user, user)
        return LabDaemon(self.network["facilitator"], self.directory, config, user)

    @property
    def password_server(self) -> OpenVpnServer:
        """A second OpenVPN server of the customer that asks for a password; running."""
        server = self.login_server(ServerLogin.PASSWORD)
        self._secret("acme-password", f"{PASSWORD}\n")
        return server

    def login_server(self, login: ServerLogin) -> OpenVpnServer:
        """The customer's OpenVPN server with this login; running. We get the files acme-LOGIN.ovpn and
        acme-LOGIN-password.
        """
        server = self._logins.get(login)
        if server is None:
            server = self._logins[login] = OpenVpnServer(
                self.network["customer"], self.directory, self._authority, login
            )
            server.start()
            self._secret(f"acme-{login.value}.ovpn", server.client_config(str(net.CUSTOMER)))
            self._secret(f"acme-{login.value}-password", f"{PASSWORD}\n")
        return server

    def shared_server(self) -> OpenVpnServer:
        """One more server of the customer, where any number of sessions with one certificate run side by
        side. We get acme-shared.ovpn.
        """
        number = len(ServerLogin) + 1
        server = OpenVpnServer(
            self.network["customer"],
            self.directory,
            self._authority,
            number=number,
            options=("duplicate-cn",),
        )
        server.start()
        self._closing.callback(server.stop)
        self._secret("acme-shared.ovpn", server.client_config(str(net.CUSTOMER)))
        return server

    def set_secret(self, name: str, value: str) -> None:
        """Replace a secret file as careful people do: a new file moved over the old one."""
        self._secret(f"{name}.new", value).replace(self.directory / name)

    @staticmethod
    def make_network() -> net.LabNetwork:
        """The namespaces and what connects them."""
        return net.LabNetwork()

    def _build(self) -> None:
        self.network = self.make_network()
        self._closing.callback(self.network.remove)
        self._authority = Authority(self.directory)
        self.openvpn = OpenVpnServer(self.network["customer"], self.directory, self._authority)
        self.sshd = BastionServer(self.network["bastion"], self.directory)
        webs: tuple[Server, ...] = (
            web_server(self.network["datacentre"], self.directory, "datacentre"),
            web_server(self.network["cloud"], self.directory, "cloud"),
        )
        for server in (*webs, self.openvpn, self.sshd):
            server.start()
        self._secret("acme.ovpn", self.openvpn.client_config(str(net.CUSTOMER)))
        self._secret("known_hosts", self.sshd.known_hosts(str(net.BASTION)))
        self._secret("pagerduty-routing-key", f"{ROUTING_KEY}\n")

    def _secret(self, name: str, value: str) -> Path:
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(value)
        self._secrets.add(name.removesuffix(".new"))
        return path


PROGRAMS = (
    "ip",
    "nft",
    "sysctl",
    "openvpn",
    "openssl",
    "ssh",
    "ssh-keygen",
    "/usr/sbin/sshd",
    "tcpdump",
    "curl",
    "unshare",
    "mount",
    "ps",
)


def unfit() -> list[str]:
    """Why the lab cannot run on this machine, one sentence each."""
    reasons = [
        f"The program {program} is missing: say `make setup` as root."
        for program in PROGRAMS
        if shutil.which(program) is None
    ]
    if os.geteuid() != 0:
        return [
            "The lab needs root, because it makes network namespaces. It touches nothing of this "
            "machine's own network."
        ]
    if not Path("/dev/net/tun").exists():
        reasons.append("/dev/net/tun is missing: say `modprobe tun`.")
    return reasons


def end_on_signals() -> None:
    """The first Ctrl-C, SIGTERM or SIGHUP ends the program through its context managers; a second one does
    not disturb that.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, interrupt)


def _sweep_directories() -> None:
    """Remove directories of labs whose process is gone."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}-*-*"):
        if not Path(f"/proc/{path.name.split('-')[1]}").exists():
            shutil.rmtree(path, ignore_errors=True)
