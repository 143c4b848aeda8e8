"""What every kind promises, whatever it is."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import tunnels.kinds
from common.settings import settings_of
from supervisor.config.parse import parse
from supervisor.config.validation import validated
from tests.cli.hostile import WORDS
from tunnels.base import (
    CLIENT_SETTINGS,
    AnyKind,
    Carrier,
    Connected,
    Failed,
    Keep,
    Launch,
    LineSource,
    NextServer,
    Placement,
    Question,
    Reason,
    Say,
    Tunnel,
    Wanted,
)
from tunnels.driver_dialogue import ProgramDialogue
from tunnels.registry import KINDS
from tunnels.settings import Login

SECRET = b"hunter2-very-secret"
KEY = b64encode(SECRET.ljust(32))
# an ASN.1 SEQUENCE: more of a PEM key is not looked at
IDENTITY = (
    b"-----BEGIN PRIVATE KEY-----\n"
    + b64encode(bytes([0x30, len(SECRET)]) + SECRET)
    + b"\n-----END PRIVATE KEY-----\n"
)
PEM_KEY = b"-----BEGIN PRIVATE KEY-----\n" + SECRET + b"\n-----END PRIVATE KEY-----\n"
PEM_CA = b"<ca>\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n</ca>\n"
PROFILE = b"client\nremote 192.0.2.1 1194 udp\nauth-user-pass\n<key>\n" + PEM_KEY + b"</key>\n" + PEM_CA

EXAMPLES: dict[str, tuple[dict[str, object], dict[str, bytes]]] = {
    "command": (
        {
            "argv": ["vpn", "{password_file}"],
            "up": {"device": "t-acme"},
            "login": {"password": {"file": "pw"}},
        },
        {"password": SECRET},
    ),
    "openconnect": (
        {
            "server": "vpn.example.net",
            "server_certificate": f"pin-sha256:{'A' * 43}=",
            "certificate": "/etc/facilitator/acme.pem",
            "key": {"file": "key"},
            "login": {"username": "svc", "password": {"file": "pw"}},
        },
        {
            "certificate": b"-----BEGIN CERTIFICATE-----\n",
            "key": b"-----BEGIN PRIVATE KEY-----\n" + SECRET,
            "password": SECRET,
        },
    ),
    "openfortivpn": (
        {"server": "vpn.example.net:10443", "login": {"username": "svc", "password": {"file": "pw"}}},
        {"password": SECRET},
    ),
    "openvpn": (
        {
            "config": "/etc/facilitator/acme.ovpn",
            "login": {"username": "svc", "password": {"file": "pw"}, "totp": {"file": "seed"}},
        },
        {"config": PROFILE, "password": SECRET},
    ),
    "sshuttle": (
        {
            "remote": "svc@bastion.example.net:22",
            "identity": {"file": "key"},
            "known_hosts": "/etc/facilitator/known_hosts",
        },
        {"identity": IDENTITY, "known_hosts": b"bastion.example.net ssh-ed25519 AAAA\n"},
    ),
    "strongswan": (
        {
            "config": "/etc/facilitator/swanctl.conf",
            "psk": {"file": "psk"},
            "login": {"username": "svc", "password": {"file": "pw"}},
        },
        {
            "config": b"connections { acme { remote_addrs = 192.0.2.1\n vips = 0.0.0.0\n children { net { } } } }",
            "psk": SECRET,
            "password": SECRET,
        },
    ),
    "vpnc": (
        {
            "config": "/etc/facilitator/acme.vpnc",
            "group_secret": {"file": "gs"},
            "login": {"username": "svc", "password": {"file": "pw"}},
        },
        {
            "config": b"IPSec gateway 192.0.2.1\nIPSec ID staff\nXauth password " + SECRET,
            "group_secret": SECRET,
            "password": SECRET,
        },
    ),
    "wireguard": (
        {"config": "/etc/facilitator/acme.conf"},
        {
            "config": b"[Interface]\nAddress=10.86.0.2\nPrivateKey="
            + KEY
            + b"\n[Peer]\nAllowedIPs=10.77.0.0/24\nEndpoint=192.0.2.1:51820\n"
            b"PublicKey=" + KEY + b"\n"
        },
    ),
}
PLACE = Placement(Path("/run/facilitator/acme"), "t-acme", 12311, "/usr/bin/python3")
FOREGROUND_BREAKERS = {"--daemon", "--log", "--writepid", "-D", "-f", "--background", "-b"}


def tunnel_of(kind: AnyKind) -> Tunnel:
    options, _ = EXAMPLES[kind.name]
    tunnel: Tunnel = validated(
        kind.options, {"name": "acme", "kind": kind.name, "destinations": ["10.77.0.0/24"], **options}
    )
    return tunnel


def launch_of(kind: AnyKind) -> Launch:
    return kind.launch(tunnel_of(kind), PLACE, EXAMPLES[kind.name][1])


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> Iterator[AnyKind]:
    yield KINDS[request.param]


def test_every_kind_has_an_example_here() -> None:
    assert set(EXAMPLES) == set(KINDS)


def test_the_mapping_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        KINDS["mine"] = KINDS["openvpn"]  # type: ignore[index]


def test_its_name_is_the_key_and_the_settings_word(kind: AnyKind) -> None:
    assert KINDS[kind.name] is kind
    assert tunnel_of(kind).kind == kind.name


def test_every_option_is_described(kind: AnyKind) -> None:
    undescribed = [
        name
        for name, field in settings_of(kind.options).items()
        if not field.description and name not in settings_of(Tunnel)
    ]
    assert not undescribed


def test_inputs_are_named_once_and_are_those_of_the_launch(kind: AnyKind) -> None:
    names = [item.name for item in kind.inputs(tunnel_of(kind))]
    assert len(names) == len(set(names))
    assert set(names) == set(EXAMPLES[kind.name][1])


def test_it_stays_in_the_foreground(kind: AnyKind) -> None:
    assert not FOREGROUND_BREAKERS.intersection(launch_of(kind).argv)


def test_no_secret_in_argv_or_environment(kind: AnyKind) -> None:
    launch = launch_of(kind)
    seen = " ".join((*launch.argv, *launch.environment.keys(), *launch.environment.values()))
    assert SECRET.decode() not in seen


def test_every_anonymous_file_is_handed_over(kind: AnyKind) -> None:
    launch = launch_of(kind)
    assert all(any(f"{{{name}}}" in word for word in launch.argv) for name in launch.files)


def test_what_it_leaves_on_disk_lies_in_its_own_directory(kind: AnyKind) -> None:
    launch = launch_of(kind)
    assert launch.management is None or launch.management.parent == PLACE.directory


def test_it_names_its_device_or_port(kind: AnyKind) -> None:
    words = launch_of(kind).argv
    assert (PLACE.device if kind.carrier is Carrier.DEVICE else str(PLACE.port)) in words


def test_its_program_is_one_of_its_binaries_or_python(kind: AnyKind) -> None:
    assert launch_of(kind).argv[0] in (*kind.binaries, PLACE.python)


@given(
    words=st.lists(
        st.tuples(
            st.sampled_from([source for source in LineSource if source is not LineSource.END]),
            st.text(max_size=80),
        ),
        max_size=30,
    )
)
def test_no_word_of_a_client_upsets_it(words: list[tuple[LineSource, str]]) -> None:
    for kind in KINDS.values():
        dialogue = kind.dialogue(tunnel_of(kind), EXAMPLES[kind.name][1])
        over = (LineSource.END, "")
        answers = [answer for source, line in (*words, over) for answer in dialogue.receive(source, line)]
        assert all(
            isinstance(answer, Say | Connected | Failed | NextServer | Question | Keep) for answer in answers
        )
        assert all("\n" not in answer.line for answer in answers if isinstance(answer, Say))
        assert sum(isinstance(answer, Failed) for answer in answers) <= 1


@pytest.mark.parametrize(
    ("message", "understood"),
    [
        (
            {"ask": "text", "id": 1, "text": f"What is the\n{WORDS}"},
            Question(Wanted.TEXT, "What is the answer"),
        ),
        ({"failed": "network", "text": f"no\n{WORDS}"}, Failed(Reason.NETWORK, "no answer")),
        (
            {
                "connected": {
                    "address": f"10.1.2.3{WORDS}",
                    "peer": WORDS,
                    "routes": ["fe80::%\x1b[2J/64", "10.77.0.0/24"],
                }
            },
            Connected("10.1.2.3 answer", "answer", (ip_network("10.77.0.0/24"),)),
        ),
        ({"keep": "c\u200bookie"}, Keep("c\u200bookie")),
    ],
    ids=lambda message: next(iter(message)) if isinstance(message, dict) else "",
)
def test_what_a_program_says_in_json_is_clean_after_decoding(
    message: dict[str, object], understood: object
) -> None:
    """As plain letters the line looks harmless. What is kept goes back to the remote gateway, and is never
    shown.
    """
    line = json.dumps(message)
    assert line.isascii()
    assert list(ProgramDialogue({}, ()).receive(LineSource.MANAGEMENT, line)) == [understood]


# --- settings that a kind makes no use of

_VALUES = {
    "device": "device: own0",
    "mtu": "mtu: 1400",
    "login.username": "login: {username: svc}",
    "login.password": "login: {password: {file: pw}}",
    "login.totp": "login: {password: {file: pw}, totp: {file: seed}}",
    "login.append_code": "login: {append_code: true}",
}
_ASKS_FOR_CODES = re.compile(r"Wanted\.CODE|append_code")  # in the source of a kind that can


def settings_read(kind: AnyKind, tunnel: Tunnel) -> set[str]:
    """Which settings the kind's own code reads for the inputs, the launch and the dialogue of this tunnel."""
    read: set[str] = set()

    class ReadLogin(Login):
        def __getattribute__(self, name: str) -> object:
            read.add(f"login.{name}")
            return super().__getattribute__(name)

    class ReadTunnel(kind.options):  # type: ignore[name-defined,misc]
        def __getattribute__(self, name: str) -> object:
            read.add(name)
            return super().__getattribute__(name)

    watched = ReadTunnel(**{**vars(tunnel), "login": ReadLogin(**vars(tunnel.login))})
    read.clear()
    inputs = EXAMPLES[kind.name][1]
    kind.inputs(watched)
    kind.launch(watched, PLACE, inputs)
    kind.dialogue(watched, inputs)
    return read & CLIENT_SETTINGS


def test_what_a_kind_reads_is_what_it_uses(kind: AnyKind) -> None:
    """Independent evidence: which attributes its code takes, and whether its package can ask for a code. The
    interface's name comes with the placement.
    """
    tunnel = tunnel_of(kind)
    read = settings_read(kind, tunnel)
    package = Path(tunnels.kinds.__file__).parent / kind.name
    if any(_ASKS_FOR_CODES.search(path.read_text()) for path in package.glob("*.py")):
        read.add("login.totp")
    if kind.carrier is Carrier.DEVICE:
        read.add("device")
    if kind.name == "command":  # it reads the name, and gives it to the program where the program wants it
        read.discard("login.username")
    assert kind.uses(tunnel) == read


@pytest.mark.parametrize("setting", sorted(CLIENT_SETTINGS))
def test_check_says_ignored_of_what_a_kind_does_not_use_and_of_nothing_else(
    kind: AnyKind, setting: str
) -> None:
    options = {**EXAMPLES[kind.name][0], "kind": kind.name, "destinations": ["10.77.0.0/24"]}
    given = yaml.safe_load(_VALUES[setting])
    if setting == "device" and kind.name == "command":
        given = {"device": "t-acme"}
    entry = {**options, **given, "login": {**options.get("login", {}), **given.get("login", {})}}  # type: ignore[dict-item]
    text = yaml.safe_dump({"staff": {"networks": ["10.8.0.0/16"]}, "tunnels": {"acme": entry}})
    said = [str(each) for each in parse(text, "c.yaml", KINDS).warnings]
    unused = [
        line for line in said if f": warning: tunnels.acme.{setting}: ignored by kind {kind.name}" in line
    ]
    used = kind.uses(validated(kind.options, {"name": "acme", **entry}))
    assert bool(unused) is (setting not in used), said


def test_a_program_uses_the_account_that_is_filled_in() -> None:
    given = {**EXAMPLES["command"][0], "argv": ["vpn", "{username}"], "login": {"username": "svc"}}
    tunnel = validated(
        KINDS["command"].options,
        {"name": "acme", "kind": "command", "destinations": ["10.77.0.0/24"], **given},
    )
    assert KINDS["command"].uses(tunnel) == {"device", "login.username"}
