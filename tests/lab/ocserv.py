"""The customer's AnyConnect server: a real ocserv that asks for a password, a password and a one-time
code, or a certificate.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import subprocess
from ipaddress import IPv4Address
from pathlib import Path

import psutil

from tests.lab.pki import Authority, KeyPair
from tests.lab.servers import PASSWORD, Server
from tests.lab.wait import eventually
from tests.netns import Namespace

USER = "svc-facilitator"
SEED = "00112233445566778899aabbccddeeff00112233"  # of the one-time codes, as the server's file has it
TOTP = base64.b32encode(bytes.fromhex(SEED)).decode()  # and as a person gets it
NETWORK, NETWORK6 = "10.79.128.0/24", "fd00:78:0:1::/64"
PROGRAMS = ("ocserv", "occtl", "ocpasswd", "openconnect")


class OcservServer(Server):
    """One ocserv on TCP and UDP port 443 of an address. `auth` is password, code (a password and a
    one-time code) or certificate.
    """

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        authority: Authority,
        address: IPv4Address,
        auth: str = "password",
        **options: object,
    ) -> None:
        self.authority, self.address, self._directory = authority, address, directory / f"ocserv-{auth}"
        self._directory.mkdir(mode=0o755)
        self.identity: KeyPair = authority.issue("vpn.example.net", "serverAuth")
        self._passwords, self._codes = self._directory / "passwd", self._directory / "codes"
        self.change_password(PASSWORD)
        self._codes.write_text(f"HOTP/T30 {USER} - {SEED}\n")
        config = self._directory / "ocserv.conf"
        self._config = {**self._settings(auth), **options}
        config.write_text("".join(f"{name} = {value}\n" for name, value in self._config.items()))
        super().__init__(
            namespace,
            directory,
            f"ocserv-{auth}",
            ("ocserv", "-f", "-d", "2", "-c", str(config)),
            "initialized ocserv",
        )

    def change_password(self, password: str) -> None:
        """What the server accepts from now on."""
        argv = ["ocpasswd", "-c", str(self._passwords), USER]
        subprocess.run(argv, input=f"{password}\n{password}\n", text=True, check=True, capture_output=True)

    @property
    def pin(self) -> str:
        """By what clients know the server."""
        key = ("openssl", "x509", "-in", str(self.identity.certificate), "-noout", "-pubkey")
        pem = subprocess.run(key, check=True, capture_output=True).stdout
        der = subprocess.run(
            ["openssl", "pkey", "-pubin", "-outform", "der"], input=pem, check=True, capture_output=True
        ).stdout
        return f"pin-sha256:{base64.b64encode(hashlib.sha256(der).digest()).decode()}"

    # --- what it has seen ---

    def said(self, pattern: str) -> int:
        """How many lines of its log match."""
        return len(re.findall(pattern, self.log.read_text(errors="replace"), re.MULTILINE))

    @property
    def logins(self) -> int:
        """Passwords and certificates that were tried, right or wrong."""
        return self.said(r"sec-mod: using '\w+' authentication to authenticate user")

    @property
    def sessions(self) -> int:
        """Sessions that began, with a fresh or with a kept cookie."""
        return self.said(r"user logged in")

    # --- what it does to its users ---

    @property
    def running(self) -> bool:
        """It was started, and neither stopped nor killed since."""
        return self._process is not None

    def throw_out(self) -> None:
        """The administrator ends the user's sessions."""
        self._control("disconnect", "user", USER)

    def forgive(self) -> None:
        """Nobody is banned any more."""
        for ip in re.findall(
            r"^\s*(\d+\.\d+\.\d+\.\d+)\s", self._control("show", "ip", "bans"), re.MULTILINE
        ):
            self._control("unban", "ip", ip)

    def _serves(self) -> bool:
        """Two of its processes are ready by themselves."""
        return super()._serves() and self.said("sec-mod initialized") > 0

    def _control(self, *words: str) -> str:
        return self.namespace.run(
            "occtl", "-s", str(self._directory / "occtl.sock"), *words, check=False
        ).stdout

    def kill(self) -> None:
        """SIGKILL to all of it: gone without a word."""
        if not self.running:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            workers = psutil.Process(self.pid).children(recursive=True)
            super().kill()
            for worker in workers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.kill()
            eventually(lambda: not any(map(_lives, workers)), 10, "ocserv is gone")

    def _settings(self, auth: str) -> dict[str, object]:
        directory = self._directory
        how = {
            "password": f'"plain[passwd={self._passwords}]"',
            "code": f'"plain[passwd={self._passwords},otp={self._codes}]"',
            "certificate": '"certificate"',
        }
        return {
            "auth": how[auth],
            "listen-host": self.address,
            "tcp-port": 443,
            "udp-port": 443,
            "run-as-user": "nobody",
            "run-as-group": "nogroup",
            "isolate-workers": "false",
            "socket-file": directory / "socket",
            "pid-file": directory / "pid",
            "use-occtl": "true",
            "occtl-socket-file": directory / "occtl.sock",
            "server-cert": self.identity.certificate,
            "server-key": self.identity.key,
            "ca-cert": self.authority.root.certificate,
            "cert-user-oid": "2.5.4.3",
            "max-clients": 16,
            "max-same-clients": 1,
            "keepalive": 300,
            "dpd": 90,
            "try-mtu-discovery": "false",
            "cookie-timeout": 300,
            "deny-roaming": "false",
            "rekey-time": 86400,
            "auth-timeout": 60,
            "max-ban-score": 0,  # nobody is banned, unless a test wants it
            "device": "vpns",
            "predictable-ips": "true",
            "ipv4-network": NETWORK,
            "ipv6-network": NETWORK6,
            "ipv6-subnet-prefix": 128,
            "route": "10.77.0.0/24",
        }


def _lives(process: psutil.Process) -> bool:
    """A zombie does not: whoever must reap it may take its time."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
