"""The far sides: real OpenVPN servers, a real sshd, and web servers that say who asked."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil

from tests.lab.pki import Authority
from tests.lab.wait import PATIENCE, eventually
from tests.netns import Namespace

PROGRAMS = Path(__file__).parent / "programs"
KEEPALIVE = "10 60"             # what real servers push
PASSWORD = "correct horse"


class Server:
    """A program in a namespace that can be stopped, killed and started again; its output is a file."""

    def __init__(self, namespace: Namespace, directory: Path, name: str, argv: tuple[str, ...], ready: str) -> None:
        self.namespace, self.argv, self.ready, self.name = namespace, argv, ready, name
        self.log = directory / f"{name}.log"
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        """The running program's process id."""
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it serves."""
        with self.log.open("w") as output:
            self._process = self.namespace.popen(*self.argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
        eventually(self._serves, 10, f"{self.name} says {self.ready!r}")

    def stop(self) -> None:
        """SIGTERM, and wait for its end."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(how)
        self._process.wait(timeout=PATIENCE)
        self._process = None

    def _serves(self) -> bool:
        assert self._process is not None
        text = self.log.read_text(errors="replace")
        assert self._process.poll() is None, f"{self.name} ended: {text}"
        return self.ready in text


def program(name: str, *arguments: str) -> tuple[str, ...]:
    """The command line of one of the lab's own little programs."""
    return (sys.executable, "-I", "-S", str(PROGRAMS / f"{name}.py"), *arguments)


def web_server(namespace: Namespace, directory: Path, name: str) -> Server:
    """HTTP on port 80 and a UDP echo on port 7, each telling the client's address as the server sees it."""
    return Server(namespace, directory, name, program("web", name), "serving")


class OpenVpnServer(Server):
    """The customer's OpenVPN server, with certificates or (`passwords`) with user name and password."""

    def __init__(self, namespace: Namespace, directory: Path, authority: Authority, *, passwords: bool = False) -> None:
        self.passwords, self.authority = passwords, authority
        self.port, self.network, self.network6 = (1195, "10.79.0.0", "fd00:79::/64") if passwords else (1194, "10.78.0.0", "fd00:78::/64")
        name = f"openvpn-{self.port}"
        self.password, self.attempts_file = directory / f"{name}.password", directory / f"{name}.attempts"
        self.tls_crypt = directory / f"{name}.tls-crypt"
        subprocess.run(["openvpn", "--genkey", "tls-crypt", str(self.tls_crypt)], check=True, capture_output=True)
        config = directory / f"{name}.conf"
        config.write_text(self._config(directory, name))
        super().__init__(namespace, directory, name, ("openvpn", "--config", str(config)), "Initialization Sequence Completed")

    def change_password(self, password: str) -> None:
        """What the server accepts from now on."""
        self.password.touch(mode=0o600)
        self.password.write_text(f"{password}\n")

    @property
    def attempts(self) -> list[str]:
        """The logins that the server has seen so far, each `accepted` or `refused`."""
        return self.attempts_file.read_text().split() if self.attempts_file.exists() else []

    def client_config(self, address: str) -> str:
        """What the customer's administrator sends us: an .ovpn file with inline keys."""
        client = None if self.passwords else self.authority.issue("svc-facilitator", "clientAuth")
        parts = {"ca": self.authority.root.certificate, "tls-crypt": self.tls_crypt}
        if client is not None:
            parts |= {"cert": client.certificate, "key": client.key}
        inline = "".join(f"<{name}>\n{path.read_text().strip()}\n</{name}>\n" for name, path in parts.items())
        head = f"client\ndev tun\nproto udp\nremote {address} {self.port}\nresolv-retry infinite\nnobind\n"
        login = "auth-user-pass\n" if self.passwords else ""
        return f"{head}persist-key\npersist-tun\nremote-cert-tls server\n{login}verb 3\n{inline}"

    def _config(self, directory: Path, name: str) -> str:
        server = self.authority.issue(name, "serverAuth")
        text = textwrap.dedent(f"""\
            port {self.port}
            proto udp
            dev tun-{self.port}
            dev-type tun
            topology subnet
            server {self.network} 255.255.255.0
            push "route 10.77.0.0 255.255.255.0"
            server-ipv6 {self.network6}
            push "route-ipv6 fd00:77::/64"
            keepalive {KEEPALIVE}
            ca {self.authority.root.certificate}
            cert {server.certificate}
            key {server.key}
            dh none
            tls-crypt {self.tls_crypt}
            explicit-exit-notify 1
            verb 3
            """)
        return text + self._password_check(directory, name) if self.passwords else text

    def _password_check(self, directory: Path, name: str) -> str:
        script = directory / f"{name}.verify"
        script.write_text(textwrap.dedent(f"""\
            #!/bin/sh
            { '{' } read -r user; read -r given; { '}' } < "$1"
            read -r expected < {self.password}
            [ "$user" = svc-facilitator ] && [ "$given" = "$expected" ] && verdict=accepted || verdict=refused
            echo $verdict >> {self.attempts_file}
            [ $verdict = accepted ]
            """))
        script.chmod(0o755)
        self.change_password(PASSWORD)
        return f"script-security 2\nverify-client-cert none\nusername-as-common-name\nauth-user-pass-verify {script} via-file\n"


class BastionServer(Server):
    """A real sshd with one account, `facilitator`, that takes one key only. Accounts of the host play no part."""

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        self.client_key = _ssh_key(directory / "own-cloud-ssh-key")
        self.host_key = _ssh_key(directory / "ssh_host_key")
        home = directory / "home"
        home.mkdir()
        accounts = ("root:*:0:0::/root:/bin/sh", "sshd:*:101:65534::/run/sshd:/bin/false", f"facilitator:*:64001:64001::{home}:/bin/sh")
        (directory / "passwd").write_text("".join(f"{account}\n" for account in accounts))
        authorized = directory / "authorized_keys"
        authorized.write_text(self.client_key.with_suffix(".pub").read_text())
        authorized.chmod(0o644)
        config = directory / "sshd_config"
        config.write_text(textwrap.dedent(f"""\
            Port 22
            HostKey {self.host_key}
            AuthorizedKeysFile {authorized}
            PasswordAuthentication no
            KbdInteractiveAuthentication no
            UsePAM no
            StrictModes no
            PidFile none
            LogLevel VERBOSE
            """))
        # /etc/passwd and /run are the server's own: it needs an account and a directory that the host may lack
        start = (
            f"mount --bind {directory}/passwd /etc/passwd && mount -t tmpfs tmpfs /run && mkdir -m 0755 /run/sshd"
            f" && exec /usr/sbin/sshd -D -e -f {config}"
        )
        super().__init__(namespace, directory, "sshd", ("unshare", "--mount", "sh", "-c", start), "Server listening on 0.0.0.0")

    def known_hosts(self, address: str) -> str:
        """The line by which clients know this server."""
        kind, key = self.host_key.with_suffix(".pub").read_text().split()[:2]
        return f"{address} {kind} {key}\n"

    def kill_sessions(self) -> None:
        """SIGKILL everything that serves a connection; the server itself goes on."""
        for process in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _ssh_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(path)], check=True)
    return path
