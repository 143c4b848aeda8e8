"""A vpnc tunnel in the whole daemon: its client is killed, it is thrown out, its path goes dark, its login
is refused.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import Lab, LabDaemon
from tests.lab.config import Config
from tests.lab.servers import PASSWORD
from tests.lab.strongswan import GROUP_SECRET, USER, StrongSwanServer
from tests.system.ipsec import carries, gateway, in_the_dark, killed, refused, thrown_out, tunnel

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def server(lab: Lab) -> Iterator[StrongSwanServer]:
    with gateway(lab) as server:
        yield server


@pytest.fixture
def config(lab: Lab, config: Config, server: StrongSwanServer) -> Config:
    for name, text in (
        ("acme.vpnc", server.vpnc_config()),
        ("acme-group", f"{GROUP_SECRET}\n"),
        ("acme-xauth", f"{PASSWORD}\n"),
    ):
        lab.set_secret(name, text)
    acme = tunnel(
        "vpnc",
        config=str(lab.directory / "acme.vpnc"),
        group_secret={"file": str(lab.directory / "acme-group")},
        login={"username": USER, "password": {"file": str(lab.directory / "acme-xauth")}},
    )
    return {**config, "tunnels": {"acme-cisco": acme}}


@pytest.mark.timed
def test_its_life(lab: Lab, daemon: LabDaemon, server: StrongSwanServer) -> None:
    carries(lab, daemon, "acme-cisco")
    killed(lab, daemon, "acme-cisco", "vpnc", "tunnels.kinds.vpnc.driver", "vpnc")
    thrown_out(lab, daemon, "acme-cisco", server)
    in_the_dark(lab, daemon, "acme-cisco")
    daemon.wait_for("acme-cisco", 60, phase="up", health="healthy")


def test_a_wrong_password_is_not_repeated_and_a_right_one_taken(
    lab: Lab, config: Config, server: StrongSwanServer
) -> None:
    lab.set_secret("acme-xauth", "wrong\n")
    with lab.daemon(config) as daemon:
        refused(lab, daemon, "acme-cisco", server, "the remote gateway refused user name or password")
        lab.set_secret("acme-xauth", f"{PASSWORD}\n")
        carries(lab, daemon, "acme-cisco")
    assert daemon.leftovers() == {}
