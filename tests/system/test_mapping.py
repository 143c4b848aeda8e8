"""Two sites with the same addresses, reached at the same time under others."""

from __future__ import annotations

import pytest

from tests.lab import Lab
from tests.lab.config import Config, with_password
from tests.lab.network import CLOUD, DATACENTRE

pytestmark = pytest.mark.root


def test_three_tunnels_to_overlapping_networks_at_once(lab: Lab, config: Config) -> None:
    """Two servers of the customer stand for two customers; the remote end sees which tunnel a request came
    through.
    """
    assert lab.password_server.pid
    spare = with_password(config, lab.directory)["tunnels"]["acme-dc"]
    config["tunnels"]["other-dc"] = {
        **spare,
        "destinations": [{"network": str(DATACENTRE), "presented_as": "100.64.2.0/24"}],
    }
    config["tunnels"]["acme-dc"]["destinations"] = [
        {"network": str(DATACENTRE), "presented_as": "100.64.1.0/24"}
    ]
    config["tunnels"]["own-cloud"]["destinations"] = [
        {"network": "10.90.0.0/24", "presented_as": "100.64.3.0/24"}
    ]
    with lab.daemon(config) as daemon:
        daemon.wait_well()
        answers = [lab.request(f"http://100.64.{site}.10/").body.strip() for site in (1, 2, 3)]
        real = [lab.request(f"http://{network[10]}/", timeout=2.0).status for network in (DATACENTRE, CLOUD)]
    assert answers == ["datacentre sees 10.78.0.2", "datacentre sees 10.79.0.2", "cloud sees 10.90.0.1"]
    assert real == [0, 0], "the real addresses are carried by nobody"
    assert daemon.leftovers() == {}
