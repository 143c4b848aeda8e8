"""Each file of `tests/shapes/strongswan` connects to a real strongSwan, or `check` says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.config.validation import validated
from tests.lab.servers import PASSWORD
from tests.lab.strongswan import PRESHARED_KEY, SITE, USER
from tests.tunnels.ipsec_lab import SERVER, IpsecLab
from tunnels.examination import findings
from tunnels.kinds.strongswan.kind import STRONGSWAN

SHAPES = Path(__file__).with_name("strongswan")
VALUES = {
    "SERVER": SERVER,
    "USER": USER,
    "PASSWORD": PASSWORD,
    "PSK": PRESHARED_KEY,
    "PSK_WORDS": PRESHARED_KEY,
}
# what who got the file does about what `check` has said
CURED = {
    "azure-site-to-site.conf": {
        "        local_addrs = 203.0.113.10\n": "",
        "local_ts = 10.79.97.0/24": f"local_ts = {SITE}/32",
    }
}
SAID = {
    "azure-site-to-site.conf": [
        "acme.conf:5: local_addrs 203.0.113.10 works only as long as this host itself has this address; an Elastic "
        "IP is translated on the way: remove local_addrs then",
        "acme.conf:21: local_ts 10.79.97.0/24 is a network, and this host has one address; write the address by which "
        "the remote gateway should see it, such as 10.79.97.1/32",
    ],
    "fortigate.conf": ["acme.conf:4: local_port is left out: each tunnel sends from a port of its own"],
    "road-warrior-eap.conf": [],
}


def filled_in(name: str) -> str:
    text = (SHAPES / name).read_text()
    for token, value in VALUES.items():
        text = text.replace(f"@{token}@", value)
    return text


@pytest.mark.parametrize("name", sorted(SAID))
def test_what_check_says(name: str) -> None:
    tunnel = validated(
        STRONGSWAN.options,
        {"name": "acme", "kind": "strongswan", "config": "acme.conf", "destinations": ["10.77.0.0/24"]},
    )
    found = findings(STRONGSWAN, tunnel, {"config": filled_in(name).encode()}, complete=True)
    assert [str(each) for each in found] == SAID[name]
    assert any(each.fatal for each in found) == (name in CURED)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IpsecLab]:
    lab = IpsecLab(tmp_path_factory.mktemp("ipsec"))
    yield lab
    lab.close()


@pytest.mark.root
@pytest.mark.parametrize("name", sorted(SAID))
def test_it_connects(lab: IpsecLab, name: str) -> None:
    text = filled_in(name)
    for old, new in CURED.get(name, {}).items():
        assert old in text
        text = text.replace(old, new)
    run = lab.run("strongswan", text.replace("\n", "\r\n"))
    try:
        connected = run.connected(30)
        assert connected.peer == SERVER
        assert [str(network) for network in connected.agreed] == ["10.77.0.0/24"]
    finally:
        run.stop()
