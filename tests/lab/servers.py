"""The remote gateways: real OpenVPN servers, a real sshd, and web servers that say who asked."""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
import pyotp

from tests.lab.etc import own_etc
from tests.lab.management import client_ids, tell
from tests.lab.pki import Authority
from tests.lab.wait import PATIENCE, eventually
from tests.netns import Namespace

PROGRAMS = Path(__file__).parent / "programs"
KEEPALIVE = "10 60"  # what real servers push
PASSWORD = "correct horse"


class Server:
    """A program in a namespace that can be stopped, killed and started again; its output is a file."""

    def __init__(
        self, namespace: Namespace, directory: Path, name: str, argv: tuple[str, ...], ready: str
    ) -> None:
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
            self._process = self.namespace.popen(
                *self.argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        eventually(self._serves, 10, f"{self.name} says {self.ready!r}")

    def stop(self) -> None:
        """SIGTERM, and wait for its end."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self._end(signal.SIGKILL)

    def halt(self) -> None:
        """From now on it does nothing, until `go_on`."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """It works again where it was."""
        os.kill(self.pid, signal.SIGCONT)

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


class ServerLogin(enum.Enum):
    """How an OpenVPN server wants its clients to log in."""

    CERTIFICATE = "certificate"
    PASSWORD = "password"
    STATIC = "static"  # the code is given with the password
    DYNAMIC = "dynamic"  # the code is asked for after the password (CRV1)
    APPENDED = "appended"  # the code follows the password in the same field
    APPROVAL = "approval"  # somebody approves it elsewhere
    TOKEN = "token"  # like STATIC, and a token spares the next login


class OpenVpnServer(Server):
    """One of the customer's OpenVPN servers; all of them lead to the data centre. `login` says how clients
    log in.

    `number`: for a second one with the same login, which then has IPv4 only. `options`: further lines of its
    configuration.
    """

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        authority: Authority,
        login: ServerLogin = ServerLogin.CERTIFICATE,
        number: int | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        number = list(ServerLogin).index(login) if number is None else number
        self.login, self.authority = login, authority
        self.port, self.network = 1194 + number, f"10.79.{number - 1}.0" if number else "10.78.0.0"
        name = f"openvpn-{self.port}"
        self._prefix = directory / name
        self.management = self._beside("management")
        self.tls_crypt = self._beside("tls-crypt")
        subprocess.run(
            ["openvpn", "--genkey", "tls-crypt", str(self.tls_crypt)], check=True, capture_output=True
        )
        config = self._beside("conf")
        config.write_text("".join((self._config(name), *(f"{option}\n" for option in options))))
        super().__init__(
            namespace,
            directory,
            name,
            ("openvpn", "--config", str(config)),
            "Initialization Sequence Completed",
        )

    def start(self) -> None:
        """Start it and wait until it serves; a killed one has left its socket."""
        self.management.unlink(missing_ok=True)
        super().start()

    # --- its accounts ---

    def change_password(self, password: str) -> None:
        """What the server accepts from now on."""
        self._write("password", password)

    def change_seed(self, seed: str, period: int = 30) -> None:
        """The seed (base32) of the one-time codes that the server accepts from now on, a new one each
        `period` seconds.
        """
        self._write("seed", seed)
        self._write("period", str(period))

    @property
    def code(self) -> str:
        """The one-time code that a person would read on a token now."""
        return pyotp.TOTP(self._beside("seed").read_text().strip()).now()

    @contextlib.contextmanager
    def approved(self) -> Iterator[None]:
        """Somebody approves the logins that wait for it."""
        self._write("approved", "")
        try:
            yield
        finally:
            self._beside("approved").unlink()

    @property
    def attempts(self) -> list[str]:
        """The logins that the server has seen so far, each `accepted`, `refused` or `asked` (for the
        code).
        """
        return [line.split()[0] for line in self._attempts()]

    @property
    def codes(self) -> list[str]:
        """The one-time codes that the server has seen so far."""
        return [line.split()[1] for line in self._attempts() if len(line.split()) > 1]

    # --- its sessions ---

    def disconnect(self, how: str = "") -> None:
        """Its administrator throws everybody out; `HALT`: for good."""
        for client in client_ids(self.management):
            tell(self.management, f"client-kill {client} {how}")

    def forget(self) -> None:
        """It forgets the sessions with a certificate of ours and says nothing: our packets are ignored."""
        tell(self.management, "kill svc-facilitator")

    # --- its configuration ---

    def client_config(
        self, address: str, authority: Authority | None = None, name: str = "svc-facilitator"
    ) -> str:
        """What the customer's administrator sends us: an .ovpn file with inline keys. `authority`: who
        signs our certificate instead.
        """
        parts = {"ca": self.authority.root.certificate, "tls-crypt": self.tls_crypt}
        if self.login is ServerLogin.CERTIFICATE:
            client = (authority or self.authority).issue(name, "clientAuth")
            parts |= {"cert": client.certificate, "key": client.key}
        inline = "".join(f"<{name}>\n{path.read_text().strip()}\n</{name}>\n" for name, path in parts.items())
        head = f"client\ndev tun\nproto udp\nremote {address} {self.port}\nresolv-retry infinite\nnobind\n"
        login = "" if self.login is ServerLogin.CERTIFICATE else "auth-user-pass\n"
        challenge = (
            'static-challenge "Enter your code" 1\n'
            if self.login in (ServerLogin.STATIC, ServerLogin.TOKEN)
            else ""
        )
        return f"{head}persist-key\npersist-tun\nremote-cert-tls server\n{login}{challenge}verb 3\n{inline}"

    def _config(self, name: str) -> str:
        server = self.authority.issue(name, "serverAuth")
        text = textwrap.dedent(f"""\
            port {self.port}
            proto udp
            dev tun-{self.port}
            dev-type tun
            topology subnet
            server {self.network} 255.255.255.0
            push "route 10.77.0.0 255.255.255.0"
            keepalive {KEEPALIVE}
            ca {self.authority.root.certificate}
            cert {server.certificate}
            key {server.key}
            dh none
            tls-crypt {self.tls_crypt}
            explicit-exit-notify 1
            management {self.management} unix
            verb 3
            """)
        if self.network in ("10.78.0.0", "10.79.0.0"):
            text += f'server-ipv6 fd00:{self.network[3:5]}::/64\npush "route-ipv6 fd00:77::/64"\n'
        return text if self.login is ServerLogin.CERTIFICATE else text + self._login_check()

    def _login_check(self) -> str:
        how = "static" if self.login is ServerLogin.TOKEN else self.login.value
        self.change_password(PASSWORD)
        check = " ".join(program("verify", str(self._prefix), how))
        token = "auth-gen-token 3600\n" if self.login is ServerLogin.TOKEN else ""
        return (
            f"script-security 2\nverify-client-cert none\nusername-as-common-name\nauth-user-pass-verify "
            f'"{check}" via-file\n'
            f"tmp-dir {self._prefix.parent}\n{token}"
        )

    # --- its files ---

    def _beside(self, what: str) -> Path:
        return self._prefix.with_name(f"{self._prefix.name}.{what}")

    def _write(self, what: str, text: str) -> None:
        self._beside(what).touch(mode=0o600)
        self._beside(what).write_text(f"{text}\n")

    def _attempts(self) -> list[str]:
        path = self._beside("attempts")
        return path.read_text().splitlines() if path.exists() else []


class BastionServer(Server):
    """A real sshd with one account, `facilitator`, that takes one key only. Accounts of the host play no
    part.
    """

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        self.client_key = _ssh_key(directory / "own-cloud-ssh-key")
        self.host_key = _ssh_key(directory / "ssh_host_key")
        home = directory / "home"
        home.mkdir()
        accounts = (
            "root:*:0:0::/root:/bin/sh",
            "sshd:*:101:65534::/run/sshd:/bin/false",
            f"facilitator:*:64001:64001::{home}:/bin/sh",
        )
        authorized = directory / "authorized_keys"
        authorized.write_text(self.client_key.with_suffix(".pub").read_text())
        authorized.chmod(0o644)
        config = directory / "sshd_config"
        config.write_text(
            textwrap.dedent(f"""\
            Port 22
            HostKey {self.host_key}
            AuthorizedKeysFile {authorized}
            PasswordAuthentication no
            KbdInteractiveAuthentication no
            UsePAM no
            StrictModes no
            PidFile none
            LogLevel VERBOSE
            """)
        )
        # /etc and /run are the server's own: it needs accounts and a directory that the host may lack
        own = f"{own_etc(directory, accounts)} && mount -t tmpfs tmpfs /run && mkdir -m 0755 /run/sshd"
        start = f"{own} && exec /usr/sbin/sshd -D -e -f {config}"
        super().__init__(
            namespace,
            directory,
            "sshd",
            ("unshare", "--mount", "sh", "-c", start),
            "Server listening on 0.0.0.0",
        )

    def known_hosts(self, address: str) -> str:
        """The line by which clients know this server."""
        kind, key = self.host_key.with_suffix(".pub").read_text().split()[:2]
        return f"{address} {kind} {key}\n"

    def kill(self) -> None:
        """SIGKILL to all of it: no connection goes on."""
        sessions = psutil.Process(self.pid).children(recursive=True) if self._process is not None else []
        super().kill()
        _kill(sessions)

    def kill_sessions(self) -> None:
        """SIGKILL everything that serves a connection; the server itself goes on."""
        _kill(psutil.Process(self.pid).children(recursive=True))


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _ssh_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(path)], check=True)
    return path
