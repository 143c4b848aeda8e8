"""Profiles as they come, before anybody has filled in or converted anything: `check` says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from supervisor.cli import main

SHAPES = Path(__file__).with_name("openvpn")
PEM = "-----BEGIN {0}-----\nAAAA\n-----END {0}-----"
VALUES = {
    "@SERVER@": "192.0.2.1",
    "@PORT@": "1194",
    "@CA@": PEM.format("CERTIFICATE"),
    "@CERT@": PEM.format("CERTIFICATE"),
    "@KEY@": PEM.format("PRIVATE KEY"),
    "@TLS@": PEM.format("OpenVPN Static key V1"),
}


def checked(directory: Path, data: bytes) -> tuple[int, list[str]]:
    """Exit code and lines of a check of a tunnel with this profile."""
    path = directory / "acme.ovpn"
    path.write_bytes(data)
    (directory / "config.yaml").write_text(
        "staff: {networks: [10.8.0.0/16]}\n"
        "tunnels:\n"
        f"  acme: {{kind: openvpn, destinations: [10.77.0.0/24], config: {path}}}\n"
    )
    done = CliRunner().invoke(main, ["check", "-c", str(directory / "config.yaml")])
    return done.exit_code, done.output.replace(f"{directory}/", "").splitlines()


def shape(name: str, old: str = "", new: str = "") -> str:
    text = (SHAPES / name).read_text()
    assert old in text
    text = text.replace(old, new) if old else text
    for token, value in VALUES.items():
        text = text.replace(token, value)
    return text


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("synology.ovpn", "remote YOUR_SERVER_IP", "a template leaves to be filled in; ask for the value"),
        ("azure-gateway.ovpn", "<cert>", "the block <cert> is not filled in; a certificate belongs here"),
        (
            "sophos-utm.ovpn",
            "tls-remote",
            "was removed in OpenVPN 2.4; write the same name as: verify-x509-name",
        ),
        ("ipfire-net-to-net.conf", "pkcs12", "a file that does not lie beside the profile; copy it there"),
        (
            "pfsense-remote-access.ovpn",
            "pkcs12",
            "cannot read pFSense-UDP4-1194-svc.p12".replace("pF", "pf", 1),
        ),
        ("pfsense-site-to-site-shared-key.conf", "secret", "cannot read shared.secret: No such file"),
    ],
)
def test_what_somebody_has_to_do_first(tmp_path: Path, name: str, line: str, said: str) -> None:
    text = shape(name)
    number = next(n for n, each in enumerate(text.splitlines(), 1) if each.startswith(line))
    code, lines = checked(tmp_path, text.encode())
    assert code == 78
    assert [each for each in lines if each.startswith(f"acme: acme.ovpn:{number}: ") and said in each], lines


GOOD = "pritunl.ovpn"
REMOTE = "remote 192.0.2.1 1194 udp"
CERT = "<cert>\n" + PEM.format("CERTIFICATE")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (REMOTE, "remote 192.0.2.1:1194 udp", "write it as: remote 192.0.2.1 1194"),
        (REMOTE, "remote udp://vpn.acme.example:1194", "write it as: remote vpn.acme.example 1194"),
        (REMOTE, "remote [2001:db8::1]:1194", "write it as: remote 2001:db8::1 1194"),
        (REMOTE, "remote https://vpn.acme.example/", "write it as: remote vpn.acme.example PORT"),
        (REMOTE, "remote <SERVER> 1194", "'<SERVER>', which a template leaves to be filled in"),
        (REMOTE, "remote CHANGE_ME 1194", "'CHANGE_ME', which a template leaves to be filled in"),
        (REMOTE, "remote my-server-1 1194", "'my-server-1', which a template leaves to be filled in"),
        ("client\n", 'client\nextra-certs "C:\\\\Program Files\\\\a.crt"\n', "write: extra-certs a.crt"),
        ("client\n", "client\nextra-certs C:\\vpn\\a.crt\n", "a path of Windows; copy the file beside the profile"),
        (CERT, "<cert>\n" + PEM.format("PRIVATE KEY"), "holds a private key where a certificate belongs"),
        (CERT, "<cert>\n" + PEM.format("CERTIFICATE REQUEST"), "a certificate request, which nobody has signed"),
        (CERT, "<cert>\n-----BEGIN CERTIFICATE-----\nAAAA", "the block <cert> is cut off"),
        ("dev tun\n", "dev tap\n", "asks for a tap interface"),
        ("client\n", "client\nkey-method 1\n", "1 was removed in OpenVPN 2.5"),
        ("client\n", "client\nmanagement-external-key\n", "leaves the private key with another program"),
        ("client\n", "client\npkcs11-id 'x'\n", "has the private key on a smart card"),
        ("client\n", "client\ncryptoapicert 'SUBJ:x'\n", "is a Windows key store; export"),
        ("client\n", "client\nmax-clients 3\n", "makes this a server"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = shape(GOOD)
    assert old in text
    text = text.replace(old, new, 1)
    code, lines = checked(tmp_path, text.encode())
    assert code == 78
    (line,) = lines
    assert said in line
    number = int(line.split(":")[2])
    before = text[: text.index(new)].count("\n") + 1
    assert before <= number <= before + new.count("\n")


@pytest.mark.parametrize(
    ("blocks", "said"),
    [
        (("cert", "key"), "no way to log in, neither cert and key"),
        (("key",), "a cert and no key"),
        (("ca",), "no ca: nothing says which server to trust"),
    ],
)
def test_what_is_missing(tmp_path: Path, blocks: tuple[str, ...], said: str) -> None:
    text = shape("aws-client-vpn.ovpn")
    for name in blocks:
        begin, end = text.index(f"<{name}>"), text.index(f"</{name}>")
        text = text[:begin] + text[end + len(f"</{name}>") :]
    code, lines = checked(tmp_path, text.encode())
    assert (code, len(lines)) == (78, 1)
    assert lines[0].startswith("acme: acme.ovpn:1: ")
    assert said in lines[0]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_any_encoding_and_line_end_is_read(tmp_path: Path, encoding: str) -> None:
    for newline in ("\n", "\r\n"):
        code, lines = checked(tmp_path, shape(GOOD).replace("\n", newline).encode(encoding))
        assert (code, lines) == (0, ["config.yaml: configuration OK (1 tunnel)"])


def test_each_other_shape_is_fine_as_it_comes(tmp_path: Path) -> None:
    for name in ("access-server.ovpn", "sophos-firewall.ovpn", "watchguard.ovpn", "aws-client-vpn.ovpn"):
        code, lines = checked(tmp_path, shape(name).encode())
        assert code == 0, (name, lines)
