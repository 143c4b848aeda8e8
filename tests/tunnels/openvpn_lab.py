"""A real OpenVPN server in a namespace, with its own certificate authority."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from supervisor.config.validation import validated
from tests.lab.management import client_ids, tell
from tests.netns import Namespace, link
from tests.tunnels.driver import ENVIRONMENT, ClientRun, wait_for, with_companions
from tunnels.base import Placement
from tunnels.registry import KINDS

CLIENT, SERVER = "198.18.0.1", "198.18.0.2"
USER, PASSWORD = "svc-facilitator", 'pa ss"w\\ord'
CODE = "123456"
_VERIFY = """#!/bin/sh
# the password says what the server answers: the right one, `say TEXT` for a refusal with that text, or what it has to ask
{ read -r user; read -r password; } < "$1"
refuse() { printf '%s' "$1" > "$auth_failed_reason_file"; exit 1; }
defer() { printf '60\\n%s\\n%s\\n' "$1" "$2" > "$auth_pending_file"; exit 2; }
await_approval() { { until [ -e "${0%/*}/approved" ]; do sleep 0.02; done; printf 1 > "$auth_control_file"; } > /dev/null 2>&1 & }
echo "${password%%:*}" >> "${0%/*}/attempts"
[ "$user" = svc-facilitator ] || exit 1
case "$password" in
  'say '*) refuse "${password#say }";;
  'ask challenge') refuse "CRV1:R,E:state-7:c3ZjLWZhY2lsaXRhdG9y:Enter your code";;
  'ask again') refuse "CRV1:R,E:state-8:c3ZjLWZhY2lsaXRhdG9y:Enter your code";;
  'ask acknowledgement') refuse "CRV1:E:state-9:c3ZjLWZhY2lsaXRhdG9y:Approve it on your phone";;
  CRV1::state-7::123456|CRV1::state-9::) ;;
  CRV1::state-8::*) refuse "CRV1:R,E:state-8:c3ZjLWZhY2lsaXRhdG9y:Enter your code";;
  SCRV1:cGEgc3Mid1xvcmQ=:MTIzNDU2) ;;
  'pa ss"w\\ord'|'pa ss"w\\ord123456') ;;
  'ask text') defer crtext 'CR_TEXT:R,E:Enter your token';;
  'ask browser') await_approval; defer webauth 'WEB_AUTH:external:https://login.example.com/1';;
  'ask nobody') await_approval; exit 2;;
  *) exit 1;;
esac
"""
_RESPONSE = """#!/bin/sh
read -r response < "$1"
[ "$response" = MTIzNDU2 ] && printf 1 > "$auth_control_file" || printf 0 > "$auth_control_file"
"""


class OpenVPNAuthority:
    """A certificate authority and the certificates that it signs, below one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self._openssl(
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "3650",
            "-subj",
            "/CN=ca",
            "-keyout",
            "ca.key",
            "-out",
            "ca.crt",
        )

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.directory, check=True, capture_output=True)

    def sign(self, name: str, usage: str, *, days: int = 3650) -> None:
        """NAME.key and NAME.crt."""
        (self.directory / "extensions").write_text(
            f"keyUsage=digitalSignature\nextendedKeyUsage={usage}\nsubjectAltName=DNS:{name}\n"
        )
        self._openssl(
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            f"/CN={name}",
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.csr",
        )
        self._openssl(
            "x509",
            "-req",
            "-in",
            f"{name}.csr",
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            str(days),
            "-extfile",
            "extensions",
            "-out",
            f"{name}.crt",
        )

    def encrypt(self, name: str) -> None:
        """NAME-encrypted.key, which needs a passphrase."""
        self._openssl(
            "ec", "-in", f"{name}.key", "-aes256", "-passout", "pass:secret", "-out", f"{name}-encrypted.key"
        )

    def pack(self, name: str, path: Path, *, with_authority: bool = False) -> None:
        """A container without a passphrase, of certificate and key, and the authority's own certificate."""
        self._openssl(
            "pkcs12",
            "-export",
            "-in",
            f"{name}.crt",
            "-inkey",
            f"{name}.key",
            *(("-certfile", "ca.crt") if with_authority else ()),
            "-passout",
            "pass:",
            "-out",
            str(path),
        )

    def revoke_nothing(self, path: Path) -> None:
        """An empty list of revoked certificates."""
        (self.directory / "index").touch()
        (self.directory / "ca.conf").write_text(
            "[ca]\ndefault_ca=c\n[c]\ndatabase=index\ndefault_md=sha256\ndefault_crl_days=30\n"
        )
        self._openssl(
            "ca", "-gencrl", "-config", "ca.conf", "-keyfile", "ca.key", "-cert", "ca.crt", "-out", str(path)
        )

    def text(self, name: str) -> str:
        return (self.directory / name).read_text()


_PUSHED = {
    "limited": ("session-timeout 3600",),
    "odd": ("block-outside-dns", "register-dns", "route-ipv6 fd00:99::/200", "route 10.76.0.0 255.255.0.255"),
    "unusable": ("compress lzo",),
}


class OpenVPNLab:
    """Client and server namespaces, one cable, the certificates; servers start when they are first needed."""

    PORTS = {
        "udp": 1194,
        "tcp": 1195,
        "login": 1196,
        "token": 1197,
        "limited": 1198,
        "odd": 1199,
        "unusable": 1200,
        "other-cipher": 1201,
    }

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca, self.other = OpenVPNAuthority(directory / "ca"), OpenVPNAuthority(directory / "other")
        self.ca.sign("server", "serverAuth")
        self.ca.sign("client", "clientAuth")
        self.ca.sign("expired", "clientAuth", days=-1)
        self.ca.encrypt("client")
        self.other.sign("client", "clientAuth")
        for name, script in (("verify", _VERIFY), ("response", _RESPONSE)):
            (directory / name).write_text(script)
            (directory / name).chmod(0o755)
        self.client, self.server = Namespace("c"), Namespace("s")
        link(self.client, "eth0", self.server, "eth0")
        self.client.run("ip", "addr", "add", f"{CLIENT}/30", "dev", "eth0")
        self.server.run("ip", "addr", "add", f"{SERVER}/30", "dev", "eth0")
        self._servers: dict[str, OpenVPNServer] = {}
        self._runs = 0

    def close(self) -> None:
        self.client.remove()
        self.server.remove()

    def serving(self, name: str) -> OpenVPNServer:
        """The server `udp`, `tcp`, `login` (udp with passwords), `token` (the same with auth-gen-token),
        `limited` (in time), `odd` (pushes what OpenVPN on Linux passes over), `unusable` (pushes what no
        client can use) or `other-cipher` (has none in common with a client of AES-256-GCM).
        """
        running = self._servers.get(name)
        if running is None or running.process.poll() is not None:
            running = self._servers[name] = OpenVPNServer(
                self, "tcp" if name == "tcp" else "udp", self.PORTS[name], *self._options(name)
            )
        return running

    def _options(self, name: str) -> tuple[str, ...]:
        if name in ("login", "token"):
            return (
                "--auth-user-pass-verify",
                str(self.directory / "verify"),
                "via-file",
                "--tmp-dir",
                str(self.directory),
                "--client-crresponse",
                str(self.directory / "response"),
                *(("--auth-gen-token", "3600") if name == "token" else ()),
            )
        if name in _PUSHED:
            return tuple(word for pushed in _PUSHED[name] for word in ("--push", pushed))
        if name == "other-cipher":
            return "--data-ciphers", "AES-128-GCM"
        return ("--explicit-exit-notify", "1") if name == "udp" else ()

    def remote(self, name: str) -> str:
        """The profile's line for a server, which runs then."""
        self.serving(name)
        return f"remote {SERVER} {self.PORTS[name]} {'tcp' if name == 'tcp' else 'udp'}"

    @contextlib.contextmanager
    def proxy(self, kind: str, port: int) -> Iterator[Path]:
        """A proxy (`http` or `socks`) beside the servers that wants a login: the file in which it writes
        down what it was told.
        """
        seen = self.directory / f"proxy-{port}"
        process = subprocess.Popen(
            self.server.argv(sys.executable, "-m", "tests.tunnels.proxies", kind, str(port), str(seen))
        )
        try:
            wait_for(seen.exists)
            yield seen
        finally:
            process.kill()
            process.wait()
            seen.unlink()

    @contextlib.contextmanager
    def approved(self) -> Iterator[None]:
        """Somebody approves the logins that wait for it."""
        (self.directory / "approved").touch()
        try:
            yield
        finally:
            (self.directory / "approved").unlink()

    @property
    def attempts(self) -> list[str]:
        """The passwords that the servers have seen, as far as a colon."""
        path = self.directory / "attempts"
        return path.read_text().splitlines() if path.exists() else []

    def place(self, device: str = "t-acme") -> Placement:
        self._runs += 1
        directory = self.directory / f"run{self._runs}"
        directory.mkdir(mode=0o700)
        return Placement(directory, device, 0, "/usr/bin/python3")

    def profile(
        self,
        *lines: str,
        ca: str | None = None,
        certificate: str | None = "client",
        authority: OpenVPNAuthority | None = None,
        key: str | None = None,
    ) -> str:
        """A customer's .ovpn with everything inline."""
        authority = authority or self.ca
        blocks = [("ca", ca or self.ca.text("ca.crt"))]
        if certificate is not None:
            blocks += [
                ("cert", authority.text(f"{certificate}.crt")),
                ("key", key or authority.text(f"{certificate}.key")),
            ]
        inline = "".join(f"<{tag}>\n{text}</{tag}>\n" for tag, text in blocks)
        return "\n".join(("client", "dev tun", "remote-cert-tls server", *lines, inline))

    def run(
        self,
        profile: str,
        *,
        username: str | None = None,
        password: str | None = None,
        device: str = "t-acme",
        prefix: tuple[str, ...] = (),
        owner: int = 0,
        place: Placement | None = None,
        kept: str | None = None,
        append_code: bool = False,
        **settings: object,
    ) -> ClientRun:
        """Start the kind `openvpn` in the client's namespace; its directory belongs to `owner`."""
        place = place or self.place(device)
        os.chown(place.directory, owner, owner)
        kind = KINDS["openvpn"]
        login = (
            {}
            if username is None
            else {"username": username, "password": {"file": "password"}, "append_code": append_code}
        )
        tunnel = validated(
            kind.options,
            {
                "name": "acme",
                "destinations": ["10.77.0.0/24"],
                "config": self.directory / "acme.ovpn",
                "login": login,
                **settings,
            },
        )
        secrets = {"password": password and f"{password}\n", "kept": kept}
        inputs = {"config": profile.encode()} | {
            name: secret.encode() for name, secret in secrets.items() if secret is not None
        }
        return ClientRun(kind, tunnel, place, with_companions(kind, tunnel, inputs), self.client, *prefix)


class OpenVPNServer:
    """One server process; with its management socket a test can throw clients out."""

    def __init__(self, lab: OpenVPNLab, proto: str, port: int, *options: str) -> None:
        self.path = lab.directory / f"server-{proto}-{port}.sock"
        ca = lab.ca.directory
        self.process = subprocess.Popen(
            lab.server.argv(
                "openvpn",
                "--dev-type",
                "tun",
                "--dev",
                f"s{port}",
                "--proto",
                f"{proto}-server" if proto == "tcp" else proto,
                "--port",
                str(port),
                "--mode",
                "server",
                "--tls-server",
                "--topology",
                "subnet",
                "--push",
                "topology subnet",
                "--ifconfig",
                "10.78.0.1",
                "255.255.255.0",
                "--ifconfig-pool",
                "10.78.0.2",
                "10.78.0.250",
                "255.255.255.0",
                "--ifconfig-ipv6",
                "fd00:78::1/64",
                "fd00:78::2",
                "--ifconfig-ipv6-pool",
                "fd00:78::2/64",
                "--push",
                "route 10.77.0.0 255.255.255.0",
                "--push",
                "route-ipv6 fd00:77::/64",
                "--push",
                "route-gateway 10.78.0.1",
                "--ca",
                str(ca / "ca.crt"),
                "--cert",
                str(ca / "server.crt"),
                "--key",
                str(ca / "server.key"),
                "--dh",
                "none",
                "--keepalive",
                "10",
                "60",
                "--script-security",
                "2",
                "--management",
                str(self.path),
                "unix",
                "--duplicate-cn",
                "--verb",
                "3",
                *options,
            ),
            stdout=(lab.directory / f"server-{proto}-{port}.log").open("wb"),
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
        )
        wait_for(self.path.exists)
        wait_for(
            lambda: (
                "Initialization Sequence Completed"
                in (lab.directory / f"server-{proto}-{port}.log").read_text()
            )
        )

    def tell(self, command: str) -> str:
        """One management command, its answer."""
        return tell(self.path, command)

    def client_id(self) -> str:
        """The id of the newest client."""
        return str(client_ids(self.path)[-1])

    def kill(self) -> None:
        """SIGKILL: gone without a word."""
        self.process.kill()
        self.process.wait()
        self.path.unlink(missing_ok=True)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        self.process.wait()
        self.path.unlink(missing_ok=True)
