"""Each file of `tests/shapes/wireguard` connects to a real wireguard-go, or `check` says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.config.validation import validated
from tests.lab.network import CUSTOMER
from tests.lab.wireguard import CLIENT_ADDRESS, text
from tests.tunnels.wireguard_lab import WireGuardSite
from tunnels.examination import findings
from tunnels.kinds.wireguard.kind import WIREGUARD

SHAPES = Path(__file__).with_name("wireguard")
NAMES = sorted(path.name for path in SHAPES.glob("*.conf"))
TOKENS = ("PRIVATE", "PUBLIC", "PRESHARED", "SERVER", "PORT", "ADDRESS")
KEY = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="


def filled_in(name: str, **values: object) -> str:
    shape = (SHAPES / name).read_text()
    for token in TOKENS:
        assert f"@{token}@" in shape
        shape = shape.replace(f"@{token}@", str(values[token]))
    return shape


def said(shape: str) -> list[str]:
    tunnel = validated(
        WIREGUARD.options,
        {"name": "acme", "kind": "wireguard", "config": "acme.conf", "destinations": ["10.77.0.0/24"]},
    )
    return [
        str(each)
        for each in findings(WIREGUARD, tunnel, {"config": shape.encode()}, complete=True)
        if each.fatal
    ]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WireGuardSite]:
    site = WireGuardSite(tmp_path_factory.mktemp("wireguard"))
    try:
        yield site
    finally:
        site.close()


@pytest.mark.root
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_it_connects(site: WireGuardSite, name: str, encoding: str) -> None:
    shape = filled_in(
        name,
        PRIVATE=text(site.server.client.private),
        PUBLIC=text(site.server.key.public),
        PRESHARED=text(site.server.preshared),
        SERVER=CUSTOMER,
        PORT=site.server.port,
        ADDRESS=CLIENT_ADDRESS,
    )
    assert said(shape) == []
    run = site.start(shape.replace("\n", "\r\n").encode(encoding))
    try:
        assert run.connected().address == CLIENT_ADDRESS
    finally:
        run.stop()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("token", "value", "sentence"),
    [
        (
            "PRIVATE",
            "<insert private key here>",
            "PrivateKey is not filled in; put in a key (44 characters of base64)",
        ),
        ("PRESHARED", "", "PresharedKey is not filled in; put in a key (44 characters of base64)"),
        ("PUBLIC", KEY[:-5], "PublicKey is not a key (44 characters of base64)"),
        ("PORT", "", "Endpoint is not HOST:PORT"),
    ],
)
def test_what_is_missing_is_said_with_its_line(name: str, token: str, value: str, sentence: str) -> None:
    values = dict.fromkeys(("PRIVATE", "PUBLIC", "PRESHARED"), KEY)
    known = {**values, "SERVER": "vpn.example.net", "PORT": 51820, "ADDRESS": "10.9.0.2", token: value}
    lines = (SHAPES / name).read_text().splitlines()
    number = next(n for n, line in enumerate(lines, 1) if f"@{token}@" in line)
    assert said(filled_in(name, **known)) == [f"acme.conf:{number}: {sentence}"]
