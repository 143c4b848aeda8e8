"""Staff traffic reaches both remote gateways, and looks there as it should."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.lab import CLOUD_WEB, DATACENTRE_WEB, Lab, LabDaemon
from tests.lab.network import BASTION_INSIDE
from tests.lab.traffic import watched

pytestmark = pytest.mark.root


def test_the_laptop_reaches_both_web_servers(lab: Lab, daemon: LabDaemon) -> None:
    with watched(lab.capture()) as clear:
        datacentre, cloud = (lab.request(f"http://{address}/") for address in (DATACENTRE_WEB, CLOUD_WEB))
    assert (datacentre.status, datacentre.body) == (200, "datacentre sees 10.78.0.2")
    assert (cloud.status, cloud.body) == (200, f"cloud sees {BASTION_INSIDE}")
    assert clear == []
    _status_is_right(daemon)
    _metrics_are_right(daemon)


def _status_is_right(daemon: LabDaemon) -> None:
    acme, cloud = daemon.tunnel("acme-dc"), daemon.tunnel("own-cloud")
    assert (acme["carries"], cloud["carries"]) == (["10.77.0.0/24"], ["10.90.0.0/16"])
    assert acme["session"]["address"] == "10.78.0.2"
    assert daemon.client_pids("openvpn") == [acme["session"]["pid"]]
    printed = daemon.cli("status", "--json")
    assert printed.returncode == 0
    assert {tunnel["name"]: tunnel["phase"] for tunnel in json.loads(printed.stdout)["tunnels"]} == {
        "acme-dc": "up",
        "own-cloud": "up",
    }
    detail = daemon.cli("status", "acme-dc").stdout
    for part in (acme["session"]["device"], "10.78.0.2", " received, ", "last events", "last log lines"):
        assert part in detail, detail
    assert "RECEIVED" in daemon.cli("status", "-o", "wide", "--sort", "state").stdout
    started = json.loads(daemon.cli("start", "--all", "--json").stdout)["tunnels"]
    assert [(tunnel["name"], tunnel["phase"]) for tunnel in started] == [
        ("acme-dc", "up"),
        ("own-cloud", "up"),
    ]


def _metrics_are_right(daemon: LabDaemon) -> None:
    text = daemon.metrics()
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    for tunnel in ("acme-dc", "own-cloud"):
        assert daemon.metric("facilitator_tunnel_up", tunnel=tunnel) == 1
        assert daemon.metric("facilitator_tunnel_phase", tunnel=tunnel, phase="up") == 1
        assert daemon.metric("facilitator_tunnel_client_resident_memory_bytes", tunnel=tunnel) > 1e6
    assert daemon.metric("facilitator_tunnel_receive_bytes_total", tunnel="acme-dc") > 0


def test_a_second_instance_is_refused(daemon: LabDaemon) -> None:
    second = daemon.cli("run")
    assert second.returncode == 75
    assert len(second.stderr.strip().splitlines()) == 1
    daemon.wait_well(1)
