"""A secret that is empty is a missing one: nothing is tried with it, and the text names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.app.files import Files
from supervisor.clients.launch import SpawnError, read_inputs, unusable
from supervisor.config.parse import parse
from tunnels.base import AnyKind, Input, Placement, Reason, Secret, Tunnel, inputs_of
from tunnels.registry import KINDS
from tunnels.settings import SecretError

ROOT = Path(__file__).parents[2]
CONFIG = """
facilitator: {name: x}
staff: {networks: [10.8.0.0/16]}
tunnels:
  openvpn: {kind: openvpn, config: a.ovpn, destinations: [10.1.0.0/16],
    login: {username: u, password: {file: S}, totp: {file: T}}}
  openconnect: {kind: openconnect, server: vpn.example.com, destinations: [10.2.0.0/16],
    login: {username: u, password: {file: S}, totp: {file: T}}, certificate: c.pem, key: {file: K}}
  vpnc: {kind: vpnc, config: b.conf, group_secret: {file: G}, destinations: [10.3.0.0/16],
    login: {username: u, password: {file: S}}}
  strongswan: {kind: strongswan, config: c.conf, psk: {file: P}, destinations: [10.4.0.0/16]}
  openfortivpn: {kind: openfortivpn, server: "vpn.example.com:443", destinations: [10.5.0.0/16],
    login: {username: u, password: {file: S}}}
  wireguard: {kind: wireguard, config: d.conf, destinations: [10.6.0.0/16]}
  sshuttle: {kind: sshuttle, remote: u@h.example.com, identity: {file: I}, known_hosts: hosts,
    destinations: [10.7.0.0/16]}
  command: {kind: command, argv: [/bin/true, "{device}", "{password_file}"], up: {notify: true}, destinations: [10.9.0.0/16],
    login: {username: u, password: {file: S}}}
"""
MORE = """
  vpnc-inline: {kind: vpnc, config: e.conf, destinations: [10.10.0.0/16]}
  openvpn-inline: {kind: openvpn, config: f.ovpn, destinations: [10.11.0.0/16]}
"""


def cases() -> list[tuple[str, str, Secret]]:
    """Every secret of every kind: tunnel, name of the input, where it may lie."""
    config = parse(CONFIG, "config.yaml", KINDS)
    return [
        (name, item.name, item.where)
        for name, tunnel in config.tunnels.items()
        for item in inputs_of(KINDS[tunnel.kind], tunnel)
        if isinstance(item.where, Secret)
    ]


@pytest.mark.parametrize("content", ["", " \n\t\r\n"], ids=["no bytes", "white space"])
@pytest.mark.parametrize(
    ("tunnel", "item", "secret"), cases(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_no_kind_starts_with_it(tmp_path: Path, tunnel: str, item: str, secret: Secret, content: str) -> None:
    config = parse(CONFIG, str(tmp_path / "config.yaml"), KINDS)
    settings = config.tunnels[tunnel]
    kind = KINDS[settings.kind]
    for each in inputs_of(kind, settings):
        path = each.where if isinstance(each.where, Path) else tmp_path / str(each.where.file)  # type: ignore[union-attr]
        path.write_text("something\n")
    empty = tmp_path / str(secret.file)
    empty.write_text(content)

    def read(kind: AnyKind, tunnel: Tunnel) -> dict[str, bytes]:
        return Files(tmp_path, lambda _: None, {}).inputs(kind, tunnel)

    with pytest.raises(SpawnError) as refused:
        read_inputs(kind, settings, read)
    assert refused.value.reason is Reason.SECRET
    assert refused.value.text == f"{item}: {empty} is empty"


WIREGUARD = (
    "[Interface]\nPrivateKey = {0}\nAddress = 10.6.0.1/32\n[Peer]\nPublicKey = {1}\nPresharedKey = {2}\n"
)
KEY = "A" * 43 + "="
VPNC = "IPSec gateway 192.0.2.1\nIPSec ID x\nXauth username u\nIPSec secret {0}\nXauth password {1}\n"
SWANCTL = "connections {{ x {{ remote_addrs = 192.0.2.1\n children {{ y {{ }} }} }} }}\nsecrets {{ ike {{ secret = {0}\n}} }}"
OPENVPN = "client\nremote 192.0.2.1\ndev tun\nca ca.pem\ncert cert.pem\nkey key.pem\n"
INLINE = [
    (
        "wireguard",
        "d.conf",
        WIREGUARD.format("", KEY, KEY),
        "d.conf:2: PrivateKey is not filled in; put in a key (44 characters of base64)",
    ),
    (
        "wireguard",
        "d.conf",
        WIREGUARD.format(KEY, KEY, " "),
        "d.conf:6: PresharedKey is not filled in; put in a key (44 characters of base64)",
    ),
    ("wireguard", "d.conf", "\n", "config: {0}/d.conf is empty"),
    ("vpnc-inline", "e.conf", VPNC.format("", "x"), "e.conf:4: IPSec secret is empty"),
    ("vpnc-inline", "e.conf", VPNC.format("x", ""), "e.conf:5: Xauth password is empty"),
    ("strongswan", "c.conf", SWANCTL.format('""'), "c.conf:3: secret is empty"),
    ("openvpn-inline", "f.ovpn", OPENVPN, "key: {0}/key.pem is empty"),
]


@pytest.mark.parametrize(("tunnel", "file", "content", "said"), INLINE)
def test_a_secret_in_a_profile_or_beside_it(
    tmp_path: Path, tunnel: str, file: str, content: str, said: str
) -> None:
    config = parse(CONFIG + MORE, str(tmp_path / "config.yaml"), KINDS)
    settings = config.tunnels[tunnel]
    kind = KINDS[settings.kind]
    for each in inputs_of(kind, settings):
        where = each.where if isinstance(each.where, Path) else tmp_path / str(each.where.file)  # type: ignore[union-attr]
        where.write_text("something\n")
    for name in ("ca.pem", "cert.pem"):
        (tmp_path / name).write_text("something\n")
    (tmp_path / "key.pem").write_text("\n")
    (tmp_path / file).write_text(content)
    place = Placement(tmp_path, "t-x", 1, "python3")

    def read(kind: AnyKind, tunnel: Tunnel) -> dict[str, bytes]:
        return Files(tmp_path, lambda _: None, {}).inputs(kind, tunnel)

    def start() -> None:
        inputs = read_inputs(kind, settings, read)
        try:
            kind.launch(settings, place, inputs)
        except ValueError as error:
            raise unusable(error) from error

    with pytest.raises(SpawnError) as refused:
        start()
    assert (refused.value.reason, refused.value.text.removeprefix(f"{tmp_path}/")) == (
        Reason.SECRET,
        said.format(tmp_path),
    )


def test_every_kind_that_logs_in_is_here() -> None:
    assert {name for name, _, _ in cases()} >= set(KINDS) - {"wireguard"}


def test_an_empty_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = Files(tmp_path, lambda _: None, {"PASSWORD": "\n"})
    with pytest.raises(SecretError, match="password: the environment variable PASSWORD is empty"):
        files.read(Input("password", Secret(env="PASSWORD")))
    with pytest.raises(SecretError, match="the environment variable OTHER is not set"):
        files.secret_text(Secret(env="OTHER"))


def test_routing_keys_and_webhooks_are_secrets_too(tmp_path: Path) -> None:
    (tmp_path / "routing-key").write_text("\n")
    with pytest.raises(SecretError, match=r"routing-key is empty"):
        Files(tmp_path, lambda _: None, {}).secret_text(Secret(file="routing-key"))
