"""Each OpenVPN profile of `tests/shapes/openvpn` connects to a real server of the kind that hands it out."""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.tunnels.driver import ENVIRONMENT, wait_for
from tests.tunnels.openvpn_lab import PASSWORD, SERVER, USER, OpenVPNLab

pytestmark = pytest.mark.root

SHAPES = Path(__file__).with_name("openvpn")
POOL = ("--server", "10.78.0.0", "255.255.255.0", "--topology", "subnet", "--keepalive", "10", "60")
PEER = ("--ifconfig", "10.78.1.1", "10.78.1.2", "--keepalive", "10", "60")
TLS = ("--ca", "ca/ca.crt", "--cert", "ca/server.crt", "--key", "ca/server.key", "--dh", "none")
LOGIN = ("--auth-user-pass-verify", "verify", "via-file", "--script-security", "2", "--tmp-dir", ".")
NO_CERTIFICATE = ("--verify-client-cert", "none", "--username-as-common-name")
OLD_CIPHER = ("--data-ciphers", "AES-256-CBC", "--data-ciphers-fallback", "AES-256-CBC")


@dataclass(frozen=True)
class Shape:
    """One profile and its server. Relative paths are those of the lab's directory."""

    server: tuple[str, ...]
    proto: str = "udp"
    login: bool = False
    changes: Mapping[str, str] = field(default_factory=dict)  # what who got the file has filled in


CONNECTED = {
    "pritunl.ovpn": Shape(
        (*POOL, *TLS, "--tls-auth", "tls.key", "0", "--auth", "SHA1", "--comp-lzo", "no",
         "--data-ciphers", "AES-128-CBC"),
    ),
    "access-server.ovpn": Shape((*POOL, *TLS, "--tls-crypt", "tls.key", "--comp-lzo", "no", *OLD_CIPHER)),
    "pfsense-remote-access.ovpn": Shape((*POOL, *TLS, "--tls-auth", "tls.key", "0", "--auth", "SHA256")),
    "pfsense-site-to-site-shared-key.conf": Shape(
        (*PEER, "--secret", "tls.key", "--auth", "SHA256", "--cipher", "AES-256-CBC")
    ),
    "pfsense-site-to-site-tls.conf": Shape(
        (*PEER, *TLS, "--tls-server", "--tls-auth", "tls.key", "0", "--auth", "SHA256")
    ),
    "sophos-utm.ovpn": Shape(
        (*POOL, *TLS, "--auth", "SHA256", "--comp-lzo", "no", *OLD_CIPHER),
        "tcp",
        changes={
            'tls-remote "C=de, L=Karlsruhe, O=acme, CN=server, emailAddress=vpn@acme.example"':
            "verify-x509-name server name"
        },
    ),
    "sophos-firewall.ovpn": Shape((*POOL, *TLS, "--auth", "SHA256", "--comp-lzo", "no", *OLD_CIPHER), "tcp"),
    "watchguard.ovpn": Shape((*POOL, *TLS, "--auth", "SHA256", *OLD_CIPHER), "tcp"),
    "synology.ovpn": Shape(
        (*POOL, *TLS, *LOGIN, *NO_CERTIFICATE, "--auth", "SHA512", "--comp-lzo", *OLD_CIPHER),
        login=True,
        changes={"YOUR_SERVER_IP": SERVER},
    ),
    # whose name has a random part in front, for which there is no resolver here
    "aws-client-vpn.ovpn": Shape((*POOL, *TLS), changes={"remote-random-hostname\n": ""}),
    "azure-gateway.ovpn": Shape(
        (*POOL, *TLS, "--tls-auth", "tls.key", "0", "--auth", "SHA256"),
        "tcp",
        changes={"$CLIENTCERTIFICATE": "@CERT@", "$PRIVATEKEY": "@KEY@"},
    ),
    "ipfire-roadwarrior.ovpn": Shape((*POOL, *TLS, "--auth", "SHA512", "--tun-mtu", "1400")),
    "ipfire-net-to-net.conf": Shape(
        (*PEER, *TLS, "--tls-server", "--auth", "SHA512", "--cipher", "AES-256-CBC", "--fragment", "1300"),
        changes={"/var/ipfire/ovpn/certs/n2n.p12": "svc.p12"},
    ),
}  # fmt: skip
# names under which the makers' profiles have their files beside them
BESIDE = {
    "shared.secret": "tls.key",
    "client2.tls-auth": "tls.key",
    "pfSense-UDP4-1194-svc-tls.key": "tls.key",
    "ca.crt": "ca/ca.crt",
    "client.crt": "ca/client.crt",
    "client.key": "ca/client.key",
}


@pytest.fixture(scope="module")
def lab() -> Iterator[OpenVPNLab]:
    with tempfile.TemporaryDirectory() as name:
        made = OpenVPNLab(Path(name))
        subprocess.run(["openvpn", "--genkey", "secret", str(made.directory / "tls.key")], check=True)
        for beside, original in BESIDE.items():
            (made.directory / beside).write_bytes((made.directory / original).read_bytes())
        for container in ("svc.p12", "pfSense-UDP4-1194-svc.p12"):
            made.ca.pack("client", made.directory / container, with_authority=True)
        try:
            yield made
        finally:
            made.close()


def filled_in(lab: OpenVPNLab, name: str, shape: Shape, port: int) -> str:
    """The profile as a customer of this lab gets it."""
    text = (SHAPES / name).read_text()
    for old, new in shape.changes.items():
        assert old in text
        text = text.replace(old, new)
    values = {
        "@SERVER@": SERVER,
        "@PORT@": str(port),
        "@CA@": lab.ca.text("ca.crt").rstrip(),
        "@CERT@": lab.ca.text("client.crt").rstrip(),
        "@KEY@": lab.ca.text("client.key").rstrip(),
        "@TLS@": (lab.directory / "tls.key").read_text().rstrip(),
    }
    for token, value in values.items():
        text = text.replace(token, value)
    return text


@contextlib.contextmanager
def serving(lab: OpenVPNLab, name: str, shape: Shape, port: int) -> Iterator[None]:
    """Its server, listening."""
    log = lab.directory / f"{name}.log"
    proto = "tcp-server" if shape.proto == "tcp" else "udp"
    argv = ("openvpn", "--dev-type", "tun", "--dev", f"s{port}", "--proto", proto, "--port", str(port))
    process = subprocess.Popen(
        lab.server.argv(*argv, "--verb", "3", *shape.server),
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
        cwd=lab.directory,
        env=ENVIRONMENT,
    )
    try:
        wait_for(lambda: re.search(r"link local|Listening for", log.read_text()) is not None)
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", CONNECTED)
def test_it_connects(lab: OpenVPNLab, name: str) -> None:
    shape, port = CONNECTED[name], 2000 + list(CONNECTED).index(name)
    login = {"username": USER, "password": PASSWORD} if shape.login else {}
    with serving(lab, name, shape, port):
        run = lab.run(filled_in(lab, name, shape, port), **login)
        try:
            run.connected()
        finally:
            run.stop()


def test_no_shape_is_forgotten() -> None:
    assert {path.name for path in SHAPES.iterdir()} == set(CONNECTED)
