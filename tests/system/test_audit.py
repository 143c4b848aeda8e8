"""The audit of real tunnels: every flow with its both ends, every control action with who asked, every
time in which nobody looked.
"""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import CLOUD_WEB, DATACENTRE_WEB, Lab, LabDaemon
from tests.lab.config import Config
from tests.lab.network import LAPTOP
from tests.lab.wait import eventually

pytestmark = pytest.mark.root


@pytest.fixture
def daemon(lab: Lab, config: Config) -> Iterator[LabDaemon]:
    daemon = lab.daemon({**config, "audit": {"file": "audit.log"}})
    with daemon:
        daemon.wait_well()
        yield daemon


def file_of(daemon: LabDaemon) -> Path:
    return daemon.directory / "audit.log"


def entries(daemon: LabDaemon, **wanted: Any) -> list[dict[str, Any]]:
    """The lines with these values."""
    lines = [json.loads(line) for line in file_of(daemon).read_text().splitlines()]
    return [line for line in lines if wanted.items() <= line.items()]


def test_who_connected_where_through_which_tunnel_and_who_asked_the_daemon_for_what(
    lab: Lab, daemon: LabDaemon
) -> None:
    sessions = {name: daemon.tunnel(name)["session"]["id"] for name in ("acme-dc", "own-cloud")}
    for web in (DATACENTRE_WEB, CLOUD_WEB):
        assert lab.request(f"http://{web}/").status == 200
    lab.network["facilitator"].run("conntrack", "-F")  # forget them, instead of two minutes later
    closed = eventually(
        lambda: (found := entries(daemon, event="close")) and len(found) >= 2 and found,
        10,
        "both flows are over",
    )
    assert {
        flow["tunnel"]: (
            flow["session"],
            flow["source"],
            flow["destination"],
            flow["real"],
            flow["destination_port"],
        )
        for flow in closed
    } == {
        "acme-dc": (sessions["acme-dc"], str(LAPTOP), str(DATACENTRE_WEB), str(DATACENTRE_WEB), 80),
        "own-cloud": (sessions["own-cloud"], str(LAPTOP), str(CLOUD_WEB), str(CLOUD_WEB), 80),
    }
    for flow in closed:
        assert flow["sent_bytes"] > 100
        assert flow["received_bytes"] > 100
        assert flow["duration"] < 60.0
        assert entries(daemon, event="open", flow=flow["flow"], tunnel=flow["tunnel"])

    (used,) = json.loads(daemon.cli("audit", "acme-dc", "--from", str(LAPTOP), "--json").stdout)["totals"]
    assert used["flows"] >= 1, "a last packet that came late is a flow of its own"
    assert used["received_bytes"] > 100
    assert str(LAPTOP) in daemon.cli("audit").stdout
    assert daemon.metric("facilitator_audit_entries_total", event="close") >= 2
    assert daemon.metric("facilitator_tunnel_flows_total") >= 2
    assert daemon.metric("facilitator_tunnel_receive_bytes_total", tunnel="own-cloud") > 100, (
        "a proxy's bytes are counted too"
    )

    assert daemon.cli("restart", "acme-dc").returncode == 0
    assert daemon.cli("stop", "nobody").returncode == 1
    os.kill(daemon.pid, signal.SIGHUP)
    eventually(lambda: entries(daemon, action="reload"), 10, "the reload is noted")
    asked = {
        entry["action"]: (entry["tunnel"], entry["by"].get("user"), entry["result"])
        for entry in entries(daemon, event="control")
    }
    assert asked == {
        "restart": ("acme-dc", "root", "done"),
        "stop": ("nobody", "root", "failed"),
        "reload": (None, None, "done"),
    }
    assert stat.S_IMODE(file_of(daemon).stat().st_mode) == 0o600


def test_a_daemon_that_died_leaves_a_gap_and_what_is_open_is_said_anew(lab: Lab, daemon: LabDaemon) -> None:
    assert lab.request(f"http://{CLOUD_WEB}/").status == 200
    eventually(lambda: entries(daemon, event="open", tunnel="own-cloud"), 10, "the flow is noted")
    daemon.kill9()
    daemon.start()
    daemon.wait_well()
    (gap,) = eventually(lambda: entries(daemon, event="gap"), 10, "the gap is noted")
    first, second = entries(daemon, event="audit-start")
    assert (gap["cause"], gap["lost"]) == ("daemon-lost", None)
    assert first["time"] <= gap["from"] <= gap["to"] == second["time"]
    again = eventually(
        lambda: entries(daemon, event="already-open", destination=str(CLOUD_WEB)),
        10,
        "what is open is said again",
    )
    assert {flow["flow"] for flow in again} <= {flow["flow"] for flow in entries(daemon, event="open")}
    assert daemon.stop() == 0
    assert entries(daemon, action="stop", result="done")
    assert entries(daemon)[-1]["event"] == "audit-stop"


def test_it_is_switched_on_and_off_and_moved_by_a_reload(lab: Lab, config: Config) -> None:
    with lab.daemon(config) as daemon:
        for name in ("one.log", "two.log"):
            daemon.configure({**config, "audit": {"file": name}})
            assert "audit" in daemon.cli("reload").stdout
            eventually((daemon.directory / name).exists, 10, "it is begun")
        daemon.configure(config)
        assert daemon.cli("reload").returncode == 0
        for name in ("one.log", "two.log"):
            path = daemon.directory / name
            eventually(lambda path=path: "audit-stop" in path.read_text(), 10, "it is ended")
            assert '"action":"reload"' in path.read_text(), "who ended it stands in it"
