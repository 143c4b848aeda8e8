"""Who may enter which tunnel, from the configuration to the metric."""

from __future__ import annotations

import pytest

from tests.lab import Lab
from tests.lab.config import Config
from tests.lab.network import CLOUD, DATACENTRE

pytestmark = pytest.mark.root
LAPTOP = "10.8.0.2/32"


def test_a_reload_changes_who_may_enter(lab: Lab, config: Config) -> None:
    urls = {"acme-dc": f"http://{DATACENTRE[10]}/", "own-cloud": f"http://{CLOUD[10]}/"}

    def statuses() -> list[int]:
        replies = [lab.request(url, timeout=30.0) for url in urls.values()]
        assert all(reply.seconds < 10.0 for reply in replies), "refused, not left to time out"
        return [reply.status for reply in replies]

    config["staff"]["segments"] = {"laptops": [LAPTOP], "others": ["10.8.128.0/17"]}
    config["tunnels"]["acme-dc"]["allow"] = ["laptops"]
    config["tunnels"]["own-cloud"]["allow"] = [
        "others",
        {"segment": "laptops", "ports": ["tcp/22", "udp/80"]},
    ]
    with lab.daemon(config) as daemon:
        daemon.wait_well()
        assert statuses() == [200, 0]
        assert (
            daemon.metric("facilitator_tunnel_refused_packets_total", tunnel="own-cloud", segment="laptops")
            == 1
        )
        assert (
            daemon.metric("facilitator_tunnel_refused_packets_total", tunnel="acme-dc", segment="others") == 0
        )

        config["tunnels"]["acme-dc"]["allow"] = []
        config["tunnels"]["own-cloud"]["allow"] = [{"segment": "laptops", "ports": ["tcp/80"]}]
        clients = daemon.client_pids()
        daemon.configure(config)
        assert daemon.cli("reload").returncode == 0
        assert statuses() == [0, 200]
        assert (
            daemon.metric("facilitator_tunnel_refused_packets_total", tunnel="acme-dc", segment="laptops")
            == 1
        )
        assert daemon.client_pids() == clients
    assert daemon.leftovers() == {}
