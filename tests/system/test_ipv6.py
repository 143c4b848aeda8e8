"""IPv6 all the way: staff, destinations, NAT66, the proxy, and closed while down."""

from __future__ import annotations

import pytest

from tests.lab import Lab
from tests.lab.config import Config
from tests.lab.network import CLOUD6, DATACENTRE6, STAFF6
from tests.lab.traffic import watched

pytestmark = pytest.mark.root


@pytest.fixture
def config(config: Config) -> Config:
    config["staff"]["networks"].append(str(STAFF6))
    config["tunnels"]["acme-dc"]["destinations"].append(str(DATACENTRE6))
    config["tunnels"]["own-cloud"]["destinations"].append(str(CLOUD6))
    config["tunnels"]["acme-dc"]["probe"]["targets"] = [f"tcp://[{DATACENTRE6[16]}]:80"]
    config["tunnels"]["own-cloud"]["probe"]["targets"] = [f"http://[{CLOUD6[16]}]/"]
    return config


def test_the_laptop_reaches_both_sites_over_ipv6_and_nothing_leaves_in_clear(
    lab: Lab, config: Config
) -> None:
    with lab.daemon(config) as daemon, watched(lab.capture()) as clear:
        daemon.wait_well()
        answers = [lab.request(f"http://[{network[16]}]/").body.strip() for network in (DATACENTRE6, CLOUD6)]
        for tunnel in ("acme-dc", "own-cloud"):
            daemon.cli("stop", tunnel)
        refused = [lab.request(f"http://[{network[16]}]/", timeout=30.0) for network in (DATACENTRE6, CLOUD6)]
    assert answers == ["datacentre sees fd00:78::1000", "cloud sees fd00:90::1"]
    assert all(reply.status == 0 and reply.seconds < 10.0 for reply in refused), (
        "refused, not left to time out"
    )
    assert clear == []
    assert daemon.leftovers() == {}
