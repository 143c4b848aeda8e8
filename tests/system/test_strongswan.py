"""Two strongSwan tunnels in the whole daemon, with a key and with a password: killed, thrown out, in the
dark, refused.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import Lab, LabDaemon
from tests.lab.config import Config
from tests.lab.servers import PASSWORD
from tests.lab.strongswan import PRESHARED_KEY, USER, StrongSwanServer, add_rekeying
from tests.lab.wait import eventually
from tests.system.ipsec import carries, gateway, in_the_dark, killed, refused, thrown_out, tunnel
from tunnels.kinds.strongswan.syntax import parse, render

pytestmark = pytest.mark.root

REKEYING_SECONDS = 20  # from one replacement of keys to the next, in a test
WATCHED_SECONDS = 70.0


@pytest.fixture(scope="module")
def server(lab: Lab) -> Iterator[StrongSwanServer]:
    with gateway(lab) as server:
        server.write_client_files(lab.directory)
        yield server


@pytest.fixture
def config(lab: Lab, config: Config, server: StrongSwanServer) -> Config:
    for name, text in (
        ("acme-psk.conf", server.swanctl_config("psk")),
        ("acme-eap.conf", server.swanctl_config("eap")),
        ("acme-psk", f"{PRESHARED_KEY}\n"),
        ("acme-eap", f"{PASSWORD}\n"),
    ):
        lab.set_secret(name, text)
    first = tunnel(
        "strongswan",
        config=str(lab.directory / "acme-psk.conf"),
        psk={"file": str(lab.directory / "acme-psk")},
    )
    login = {"username": USER, "password": {"file": str(lab.directory / "acme-eap")}}
    second = tunnel("strongswan", config=str(lab.directory / "acme-eap.conf"), login=login, priority=200)
    return {**config, "tunnels": {"acme-key": first, "acme-password": second}}


def test_two_at_once(lab: Lab, daemon: LabDaemon) -> None:
    """Each has its own charon and its own device, and charon's rules and routes stand in nobody's way."""
    facilitator = lab.network["facilitator"]
    assert {daemon.tunnel(name)["session"]["device"] for name in ("acme-key", "acme-password")} == {
        "t-acme-key",
        "t-acme-password",
    }
    assert "ipsec" not in facilitator.run("ip", "link").stdout
    assert "fwmark 0x7f" not in facilitator.run("ip", "rule").stdout
    carries(lab, daemon, "acme-key")
    daemon.cli("stop", "acme-key")
    carries(lab, daemon, "acme-password")


@pytest.mark.timed
def test_its_life(lab: Lab, config: Config, server: StrongSwanServer) -> None:
    only = {**config, "tunnels": {"acme-key": config["tunnels"]["acme-key"]}}
    with lab.daemon(only) as daemon:
        carries(lab, daemon, "acme-key")
        killed(lab, daemon, "acme-key", "charon-systemd", "tunnels.kinds.strongswan.driver", "charon-systemd")
        thrown_out(lab, daemon, "acme-key", server)
        in_the_dark(lab, daemon, "acme-key")
    assert daemon.leftovers() == {}


def test_a_wrong_password_is_not_repeated_and_a_right_one_taken(
    lab: Lab, config: Config, server: StrongSwanServer
) -> None:
    lab.set_secret("acme-eap", "wrong\n")
    with lab.daemon({**config, "tunnels": {"acme-password": config["tunnels"]["acme-password"]}}) as daemon:
        refused(lab, daemon, "acme-password", server, "the remote gateway refused user name or password")
        lab.set_secret("acme-eap", f"{PASSWORD}\n")
        carries(lab, daemon, "acme-password")
    assert daemon.leftovers() == {}


def test_rekeying_is_not_the_end_of_a_session(lab: Lab, config: Config, server: StrongSwanServer) -> None:
    """Both ends replace their keys, of IKE and of ESP: we for one tunnel, the gateway for the other."""
    ours: Any = parse(server.swanctl_config("psk"))
    add_rekeying(ours["connections"]["acme"], REKEYING_SECONDS)
    lab.set_secret("acme-psk.conf", render(ours))
    server.rekey("eap", REKEYING_SECONDS)
    children = server.children_rekeyed
    replaced = {name: server.rekeyed(name) for name in ("psk", "eap")}
    with lab.daemon(config) as daemon:
        for name in ("acme-key", "acme-password"):
            daemon.wait_for(name, phase="up", health="healthy")
        before, begun = daemon.sessions(), time.monotonic()
        eventually(
            lambda: all(server.rekeyed(name) >= count + 3 for name, count in replaced.items()),
            WATCHED_SECONDS + 20,
            "both ends have replaced their IKE SAs three times",
        )
        eventually(
            lambda: time.monotonic() - begun >= WATCHED_SECONDS or daemon.sessions() != before,
            WATCHED_SECONDS,
            "the time is over",
        )
        assert daemon.sessions() == before, daemon.log.read_text()[-12000:]
        assert server.children_rekeyed >= children + 4
        for name in ("acme-key", "acme-password"):
            assert daemon.tunnel(name)["health"] == "healthy"
        carries(lab, daemon, "acme-key")
        server.end_sessions("psk")  # and the end is one
        eventually(lambda: daemon.sessions()["acme-key"] != before["acme-key"], 10, "it is noticed")


def test_networks_that_the_gateway_does_not_carry_are_told(
    lab: Lab, config: Config, server: StrongSwanServer
) -> None:
    """It narrows what is asked for (RFC 7296, 2.9): what is left over would vanish in silence."""
    text = server.swanctl_config("psk").replace("remote_ts = 10.77.0.0/24", "remote_ts = 10.77.0.0/16")
    lab.set_secret("acme-psk.conf", text)
    only = config["tunnels"]["acme-key"] | {"destinations": ["10.77.0.0/16"], "alert": {"after": "3s"}}
    with lab.daemon({**config, "tunnels": {"acme-key": only}}) as daemon:
        carries(lab, daemon, "acme-key")
        said = "agreed to carry only 10.77.0.0/24, which is not all of 10.77.0.0/16 in destinations"
        found = eventually(
            lambda: [each for each in daemon.status()["conditions"] if said in each["text"]],
            10,
            "status tells it",
        )
        assert [(each["name"], each["severity"], each["incident"]) for each in found] == [
            ("not-carried:acme-key", "warning", True)
        ]
        assert daemon.tunnel("acme-key")["health"] == "healthy"
        asked = daemon.cli("why", "10.77.9.9").stdout
        assert "it agreed to carry only 10.77.0.0/24" in " ".join(asked.split()), asked
        assert "agreed to carry only" not in daemon.cli("why", "10.77.0.10").stdout
