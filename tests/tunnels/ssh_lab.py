"""A real sshd behind a facilitator's namespace, and a staff machine in front of it.

hub 10.91.0.1 -- 10.91.0.2 facilitator 198.18.1.1 -- 198.18.1.2 bastion (sshd; on 10.90.0.10 and fd00:90::10 a
web server, and an echo)
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from supervisor.config.validation import validated
from tests import echo
from tests.netns import Namespace, link
from tests.tunnels.driver import ENVIRONMENT, ClientRun, wait_for
from tunnels.base import Placement
from tunnels.registry import KINDS

FACILITATOR, BASTION, SITE, SITE6 = "198.18.1.1", "198.18.1.2", "10.90.0.10", "fd00:90::10"
SSH_PORT, ECHO_PORT = 22, 7
FACTORS_PORT, PASSWORD_PORT, JUMP_PORT = (
    2201,
    2202,
    2203,
)  # sshds that want more, other logins, and a jump host
_RULES = """
table inet t {{
  chain pre {{
    type nat hook prerouting priority -100
    ip daddr {{ 10.90.0.0/16, 100.90.0.0/16 }} tcp dport 1-65535 redirect to :{port}
    ip6 daddr fd00:90::/64 tcp dport 1-65535 redirect to :{port}
  }}
}}
"""
# The queue of http.server itself holds five connections: in a burst the others would wait for a second and
# more.
_WEB = """
import functools, http.server, socket, sys
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 1024
    address_family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
Server((sys.argv[1], 80), functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[2])).serve_forever()
"""
_SSHD = """
Port {port}
HostKey {directory}/host
AuthorizedKeysFile {directory}/authorized
PidFile none
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
"""
# What a remote host may print before a login and after it: none of that is ssh's own.
BANNER = """Permission denied (publickey).
Host key verification failed.
ssh: connect to host this port 22: No route to host
jump: Permission denied (publickey).
facilitator: ssh ended with code 255
c : fatal: server died with error code 97
"""


class SshLab:
    """Three namespaces in a row with everything running but the tunnel."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("host", "identity", "forced", "hostile", "stranger", "jump", "authority"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", directory / name],
                check=True,
            )
        public, forced, hostile = (
            (directory / f"{name}.pub").read_text() for name in ("identity", "forced", "hostile")
        )
        self.hostile = directory / "hostile.py"  # what the remote side of the identity `hostile` runs
        (directory / "authorized").write_text(
            f'{public}command="echo This account is not for you." {forced}command="{sys.executable} '
            f'{self.hostile}" {hostile}'
        )
        (directory / "garbage").write_text(
            "-----BEGIN OPENSSH PRIVATE KEY-----\nhello\n-----END OPENSSH PRIVATE KEY-----\n"
        )
        self.hub, self.facilitator, self.bastion = Namespace("h"), Namespace("f"), Namespace("b")
        link(self.hub, "eth0", self.facilitator, "hub0")
        link(self.facilitator, "eth0", self.bastion, "eth0")
        self._addresses()
        (directory / "banner").write_text(BANNER)
        self._start_sshd(SSH_PORT, f"Banner {directory}/banner")
        self._start_sshd(
            FACTORS_PORT, "PasswordAuthentication yes", "AuthenticationMethods publickey,password"
        )
        self._start_sshd(PASSWORD_PORT, "PasswordAuthentication yes", "PubkeyAuthentication no")
        self._start_sshd(
            JUMP_PORT,
            f"AuthorizedKeysFile {directory}/jump.pub",
            f"TrustedUserCAKeys {directory}/authority.pub",
        )
        self._web = [self._start_web(address) for address in (SITE, SITE6)]
        self._closing = contextlib.ExitStack()
        self._closing.enter_context(echo.serving(self.bastion, ECHO_PORT))
        self._runs = 0
        self._ports = itertools.count(17300)

    def _addresses(self) -> None:
        for namespace, device, *addresses in (
            (self.hub, "eth0", "10.91.0.1/24", "fd00:91::1/64"),
            (self.facilitator, "hub0", "10.91.0.2/24", "fd00:91::2/64"),
            (self.facilitator, "eth0", f"{FACILITATOR}/24"),
            (self.bastion, "eth0", f"{BASTION}/24"),
            (self.bastion, "lo", f"{SITE}/32", f"{SITE6}/128"),
        ):
            for address in addresses:
                namespace.run(
                    "ip", "addr", "add", address, "dev", device, *(("nodad",) if ":" in address else ())
                )
        for network in ("10.90.0.0/16", "100.90.0.0/16"):
            self.hub.run("ip", "route", "add", network, "via", "10.91.0.2")
        self.hub.run("ip", "route", "add", "fd00:90::/64", "via", "fd00:91::2")
        self.facilitator.run("ip", "route", "add", "unreachable", "10.90.0.0/16")

    def _start_sshd(self, port: int, *lines: str) -> None:
        """sshd takes the first value of each option, so the lines come before the common ones."""
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        config, log = self.directory / f"sshd-{port}.conf", self.directory / f"sshd-{port}.log"
        common = _SSHD.format(port=port, directory=self.directory)
        config.write_text("\n".join((*lines, common)))
        subprocess.Popen(
            self.bastion.argv("/usr/sbin/sshd", "-D", "-e", "-f", str(config)),
            stdout=subprocess.DEVNULL,
            stderr=log.open("wb"),
            env=ENVIRONMENT,
        )
        wait_for(lambda: "listening on" in log.read_text())

    def _start_web(self, address: str) -> subprocess.Popen[bytes]:
        site = self.directory / "site"
        site.mkdir(exist_ok=True)
        (site / "hello").write_text("hello from the remote host\n")
        process = subprocess.Popen(
            self.bastion.argv(sys.executable, "-c", _WEB, address, str(site)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
        )
        wait_for(
            lambda: (
                f"{address}:80" in (listening := self.bastion.run("ss", "-Hltn").stdout)
                or f"[{address}]:80" in listening
            )
        )
        return process

    def connection(self, address: str = SITE) -> socket.socket:
        """A connection of the hub's to the echo; it has carried something."""
        return echo.connection(self.hub, address, ECHO_PORT)

    def close(self) -> None:
        self._closing.close()
        for namespace in (self.hub, self.facilitator, self.bastion):
            namespace.remove()

    def known_hosts(self, key: str = "host") -> bytes:
        kind, public, _ = (self.directory / f"{key}.pub").read_text().split()
        return f"{BASTION},{SITE} {kind} {public}\n".encode()

    def certificate(self, principal: str = "root", key: str = "stranger", validity: str = "+1d") -> bytes:
        """A certificate that the authority gives to a key, which nobody else knows."""
        subprocess.run(
            [
                "ssh-keygen",
                "-q",
                "-s",
                "authority",
                "-I",
                "test",
                "-n",
                principal,
                "-V",
                validity,
                f"{key}.pub",
            ],
            cwd=self.directory,
            check=True,
        )
        return (self.directory / f"{key}-cert.pub").read_bytes()

    def redirect(self, port: int) -> None:
        """What the daemon's own rules do."""
        self.facilitator.run("nft", "flush ruleset")
        self.facilitator.run("nft", "-f", "-", input=_RULES.format(port=port))

    def fetch(self, address: str = SITE, namespace: Namespace | None = None) -> str:
        host = f"[{address}]" if ":" in address else address
        return (namespace or self.hub).run("curl", "-sS", "-m", "30", f"http://{host}/hello").stdout

    def place(self, port: int, python: str) -> Placement:
        self._runs += 1
        directory = self.directory / f"run{self._runs}"
        directory.mkdir(mode=0o700)
        return Placement(directory, "", port, python, user=(65534, 65534))

    def run(
        self,
        *,
        remote: str = f"root@{BASTION}",
        identity: str = "identity",  # a file of the lab's directory
        known_hosts: bytes | None = None,
        beside: Mapping[str, bytes] = MappingProxyType({}),
        port: int | None = None,
        python: str = sys.executable,
        prefix: tuple[str, ...] = (),
        owner: int = 0,
        **settings: object,
    ) -> ClientRun:
        """Start the kind `sshuttle` in the facilitator's namespace, on a port of its own, with its
        directory as the user `owner`'s. `beside`: more inputs.
        """
        place = self.place(next(self._ports) if port is None else port, python)
        os.chown(place.directory, owner, owner)
        kind = KINDS["sshuttle"]
        tunnel = validated(
            kind.options,
            {
                "name": "own-cloud",
                "destinations": ["10.90.0.0/16"],
                "remote": remote,
                "identity": {"file": identity},
                "known_hosts": "known_hosts",
                **settings,
            },
        )
        inputs = {
            "identity": (self.directory / identity).read_bytes(),
            "known_hosts": self.known_hosts() if known_hosts is None else known_hosts,
            **beside,
        }
        return ClientRun(kind, tunnel, place, inputs, self.facilitator, *prefix)
