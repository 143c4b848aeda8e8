"""An empty secret is a missing one: no packet goes to the real server of any kind, the text names the item
and the place, and the tunnel heals by itself when the secret comes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab
from tests.lab import network as net
from tests.lab.config import Config
from tests.lab.customers import Customers, customers
from tests.lab.servers import ServerLogin
from tests.lab.traffic import Capture, watched

pytestmark = pytest.mark.root
SERVERS = IPv4Network("203.0.113.0/24")  # every remote gateway of the lab
TO_A_SERVER = re.compile(r" > 203\.0\.113\.\d+(\.\d+)?: (?!ICMP )")
SECRETS = ("password", "totp", "psk", "group_secret", "identity", "key", "certificate")


@pytest.fixture
def everyone(lab: Lab) -> Iterator[Customers]:
    with customers(lab) as made:
        for login in (ServerLogin.PASSWORD, ServerLogin.STATIC, ServerLogin.DYNAMIC):
            made.openvpn(login)
        for auth in ("password", "code", "certificate"):
            made.openconnect(auth)
        made.wireguard()
        made.ipsec()
        made.sshuttle()
        yield made


def secrets_of(settings: Mapping[str, Any]) -> list[Path]:
    """The files of a tunnel's settings that hold a secret."""
    if settings["kind"] == "wireguard":
        return [Path(settings["config"])]
    options = {**settings, **settings.get("login", {})}
    values = [options[name] for name in SECRETS if name in options]
    return [Path(value["file"] if isinstance(value, dict) else value) for value in values]


@pytest.mark.parametrize("which", [0, -1], ids=["the first secret of each", "the last secret of each"])
@pytest.mark.parametrize("content", ["", " \n\n"], ids=["no bytes", "white space"])
def test_nothing_is_tried_and_it_heals_by_itself(
    lab: Lab, config: Config, everyone: Customers, which: int, content: str
) -> None:
    emptied = {customer.name: secrets_of(customer.settings)[which] for customer in everyone.all}
    good = {path: path.read_text() for path in emptied.values()}
    to_servers = Capture(lab.network["facilitator"], net.UPLINK, (SERVERS,), lab.directory)
    try:
        for path in good:
            path.write_text(content)
        daemon = lab.daemon(everyone.config(config))
        with daemon:
            with watched(to_servers) as sent:
                for name, path in emptied.items():
                    tunnel = daemon.wait_for(name, reason="secret")
                    assert str(path) in tunnel["last_error"], tunnel
                    assert "is empty" in tunnel["last_error"], tunnel
                daemon.cli("restart", *emptied)  # a person's order changes nothing
                for name in emptied:
                    assert daemon.wait_for(name, reason="secret")["session"] is None
            # (servers still talk to the clients of earlier sessions: nobody has told them of the end)
            assert [line for line in sent if TO_A_SERVER.search(line)] == []
            for path, text in good.items():
                path.write_text(text)
            daemon.wait_well()
    finally:
        for path, text in good.items():
            path.write_text(text)
    assert daemon.leftovers() == {}
